// Requests to the server, and its errors in words. Addresses are relative to the page, wherever a proxy puts it.

import { toAddress } from './ask.js';

/** What the server refused, or that it did not answer (`code` is 'offline'). */
export class ApiError extends Error {
  constructor(code, message, wait = null) {
    super(message);
    this.code = code;
    this.wait = wait;
  }
}

async function get(path, query, signal, body = null) {
  let response;
  try {
    response = await fetch(`${path}?${query}`, { signal, ...(body && { method: 'POST', body }) });
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

/** What is found for what is asked for, from a place of the ranking on. */
export const search = (ask, offset, signal) => get('api/search', toAddress(ask, { offset }), signal, ask.picture);

/** The address of a file with the results: csv, edl or json. */
export const file = (ask, top, kind) => `api/search?${toAddress(ask, { top, format: kind })}`;

/** What there is to filter by. */
export const filters = () => get('api/filters', '');

/** What is said in a film. */
export const cues = (video) => get('api/cues', film(video));

/** What names a film in an address; a name may be no text. */
export const film = (video) => video.slice(video.indexOf('?') + 1);

/** What may be wrong with a video that did not play; `video` is its address. */
export const account = (video) => get('api/video', film(video));

/** A piece of a film, from about a second on, that browsers play; it is made where there is none. */
export const piece = (video, at, signal) => get('api/piece', `${film(video)}&at=${at.toFixed(3)}`, signal);

/** A clip of a film, by `cut`: copy or exact. */
export const clip = (video, start, end, cut, signal) =>
  get('api/piece', `${film(video)}&start=${start.toFixed(3)}&end=${end.toFixed(3)}&cut=${cut}`, signal);
