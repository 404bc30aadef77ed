// Requests to the server, and its errors in words. Addresses are relative to the page, wherever a proxy puts it.

/** What the server refused, or that it did not answer (`code` is 'offline'). */
export class ApiError extends Error {
  constructor(code, message, wait = null) {
    super(message);
    this.code = code;
    this.wait = wait;
  }
}

async function get(path, query, signal) {
  let response;
  try {
    response = await fetch(`${path}?${query}`, { signal });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('offline', 'The server does not answer. Is it still running?');
  }
  let content;
  try {
    content = await response.json();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('failed', `The server answered with something unreadable (status ${response.status}).`);
  }
  if (!response.ok) {
    const { code = 'failed', message = `Status ${response.status}.`, wait = null } = content.error ?? {};
    throw new ApiError(code, message, wait);
  }
  return content;
}

export const info = () => get('api/info', '');

/** `where` is a filter, or empty. */
export const search = (query, where, offset, signal) => get('api/search', new URLSearchParams({
  q: query, offset, ...(where && { where }),
}), signal);

/** What names a film in an address; a name may be no text. */
export const film = (video) => video.slice(video.indexOf('?') + 1);

/** What may be wrong with a video that did not play; `video` is its address. */
export const account = (video) => get('api/video', film(video));

/** A piece of a film, from about a second on, that browsers play; it is made where there is none. */
export const piece = (video, at, signal) => get('api/piece', `${film(video)}&at=${at.toFixed(3)}`, signal);

/** A clip of a film, by `cut`: copy or exact. */
export const clip = (video, start, end, cut, signal) =>
  get('api/piece', `${film(video)}&start=${start.toFixed(3)}&end=${end.toFixed(3)}&cut=${cut}`, signal);
