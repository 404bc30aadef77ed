// What is asked for, as a value that does not change: a sentence, and what goes with it; and its form as an address.

/**
 * q: the sentence. without: sentences of what must not be there. like: VIDEO@SECONDS, percent-encoded, for a name may be
 * no text. where: filters. picture: a file.
 */
export const NOTHING = Object.freeze({ q: '', without: [], like: null, where: [], picture: null });

/** What an address asks for. */
export function fromAddress(search) {
  const parameters = new URLSearchParams(search);
  const all = (name) => parameters.getAll(name).map((value) => value.trim()).filter(Boolean);
  const like = /[?&]like=([^&]+)/.exec(search)?.[1] ?? null;
  return { ...NOTHING, q: words(parameters.get('q') ?? ''), without: all('without'), like, where: all('where') };
}

/** The part of an address that asks for it, without a picture, which has none; `more`: further parameters. */
export function toAddress({ q, without, like, where }, more = {}) {
  const parameters = new URLSearchParams();
  if (q) parameters.set('q', q);
  for (const one of without) parameters.append('without', one);
  for (const one of where) parameters.append('where', one);
  for (const [name, value] of Object.entries(more)) if (value != null) parameters.set(name, value);
  return [parameters.toString(), like && `like=${like}`].filter(Boolean).join('&');
}

/** Whether there is nothing to search for. */
export const isEmpty = ({ q, like, picture }) => !q && !like && !picture;

export const same = (one, other) => one.picture === other.picture && toAddress(one) === toAddress(other);

export const words = (text) => text.trim().split(/\s+/).join(' ');

/** A video of an answer and a second of it, as `like` has them; null where its name cannot be written. */
export function moment(hit, seconds) {
  const address = hit.video && new URLSearchParams(hit.video.slice(hit.video.indexOf('?'))).has('id')
    ? /[?&]id=([^&]*)/.exec(hit.video)[1] : null;
  try {
    return `${address ?? encodeURIComponent(hit.video_id)}%40${seconds.toFixed(1)}`;
  } catch {
    return null; // It holds half a character.
  }
}

/** The name and the second in `like`, to be read. */
export function momentOf(like) {
  const at = like.lastIndexOf('%40') >= 0 ? '%40' : '@';
  const place = like.lastIndexOf(at);
  const name = like.slice(0, place).replaceAll('+', ' ');
  try {
    return { name: decodeURIComponent(name), seconds: like.slice(place + at.length) };
  } catch {
    return { name, seconds: like.slice(place + at.length) };
  }
}
