// A film in a video element, by its own seconds: the file itself, or, where the browser does not play that, pieces of it
// that the server makes playable.

import * as api from './api.js';
import { make } from './text.js';

// Times of frames are equal to those of samples within this much: what rounding to milliseconds adds.
const HALF_A_MILLISECOND = 0.0005;
// Of which the server can make pieces: it reads the file, and the browser does not play it.
const MAKABLE = ['format', 'fine'];
// What else may be wrong by the time that a piece is asked for.
const OTHERS = ['gone', 'offline', 'outside', 'unknown', 'unreadable'];

export class Film {
  /**
   * hit: as the server sends it. onTime(seconds): that second is shown. onMaking(): a piece is being made.
   * onPlayable(): there is something to play. onFail(why): there is nothing, as `code` and `message`.
   */
  constructor(hit, handlers) {
    Object.assign(this, handlers, { hit, piece: null, asked: null, wanted: null, ended: false, tracks: [] });
    this.element = make('video', {
      class: 'screen', controls: true, playsinline: true, preload: 'metadata', tabindex: '0', 'aria-label': hit.title,
    });
    this.element.addEventListener('loadedmetadata', () => this.#loaded());
    this.element.addEventListener('timeupdate', () => this.ended || this.asked || this.onTime(this.time));
    this.element.addEventListener('ended', () => this.#goOn());
    this.element.addEventListener('error', () => this.#fail());
  }

  /** The second of the film that is shown. */
  get time() {
    return this.element.currentTime + (this.piece?.start ?? 0);
  }

  get paused() {
    return this.element.paused;
  }

  /** Shows what is said as captions: tracks of `api.cues`. */
  caption(tracks) {
    this.tracks = tracks;
    this.#caption();
  }

  #caption() {
    const shown = [...this.element.textTracks].findIndex((track) => track.mode === 'showing');
    for (const old of this.element.querySelectorAll('track')) old.remove();
    const from = this.piece ? `&from=${this.piece.start}` : '';
    this.element.append(...this.tracks.map(({ track, captions }) => make('track', {
      kind: 'captions', src: captions + from, label: track || 'Subtitles',
      srclang: /^[a-z]{2,3}(-\w+)?$/i.test(track) ? track : null,
    })));
    const chosen = this.element.textTracks[Math.max(0, shown)];
    if (chosen) chosen.mode = 'showing';
  }

  /** Begins to play at a second. */
  start(seconds) {
    this.wanted = seconds;
    if (this.hit.video) this.element.src = this.hit.video;
    else this.onFail({ code: 'no_file' });
  }

  /** Plays on from a second. */
  seek(seconds) {
    const { piece } = this;
    this.wanted = seconds;
    if (this.ended) return;
    if (piece && (seconds < piece.start - 0.5 || (seconds >= piece.end && !piece.last))) {
      this.#make(seconds);
    } else if (this.element.readyState) {
      if (this.asked) this.onPlayable(); // Another piece, which is not wanted any more.
      this.asked?.abort();
      this.asked = null;
      this.#show();
    }
  }

  /** Plays; without sound where the browser wants a click first. */
  async play() {
    try {
      await this.element.play();
    } catch (error) {
      if (error.name !== 'NotAllowedError') return;
      this.element.muted = true;
      await this.element.play().catch(() => {});
    }
  }

  pause() {
    this.element.pause();
  }

  /** Ends it, and its requests. */
  end() {
    this.ended = true;
    this.asked?.abort();
    this.element.pause();
    this.element.removeAttribute('src');
    this.element.load();
  }

  #show() {
    goTo(this.element, Math.max(0, this.wanted - (this.piece?.start ?? 0)));
    this.play();
  }

  #loaded() {
    if (this.ended) return;
    // Of some files browsers play the sound alone.
    if (!this.piece && !this.element.videoWidth) {
      this.#fail();
      return;
    }
    this.onPlayable();
    this.#show();
  }

  /** The next piece, where one ends and the film does not. */
  #goOn() {
    if (this.piece && !this.piece.last && !this.asked) this.#make(this.piece.end);
  }

  /** Says why it does not play, or has a piece of it made. */
  async #fail() {
    if (this.ended || this.asked) return;
    if (this.piece) {
      this.onFail({ code: 'format', message: 'The browser does not play what the server has made of this film, either.' });
      return;
    }
    const why = await reason(this.hit.video);
    if (this.ended || this.asked) return;
    if (MAKABLE.includes(why.code)) this.#make(this.wanted, why);
    else this.onFail(why);
  }

  async #make(seconds, why = { code: 'format', message: '' }) {
    this.asked?.abort();
    const asked = new AbortController();
    this.asked = asked;
    this.wanted = seconds;
    this.element.pause();
    this.onMaking();
    try {
      const piece = await api.piece(this.hit.video, seconds, asked.signal);
      if (asked.signal.aborted) return;
      this.asked = null;
      this.piece = piece;
      this.element.src = piece.video;
      if (this.tracks.length) this.#caption();
    } catch (error) {
      if (error.name === 'AbortError') return;
      this.asked = null;
      this.onFail(OTHERS.includes(error.code) ? error : { ...why, message: `${why.message} ${error.message}`.trim() });
    }
  }
}

/** What the server says of a file that did not play. */
async function reason(address) {
  try {
    const why = await api.account(address);
    if (why.code !== 'fine') return why;
    return { code: 'fine', message: 'The browser could not play the file, though it is in order. Try it again.' };
  } catch (error) {
    return { code: error.code, message: error.message };
  }
}

/**
 * Shows the frame that the index has at a time, seconds on the player's clock.
 *
 * Where all of a film begins late a browser takes it for shorter than it is until it has read on: it is sent there again
 * as it finds out.
 */
function goTo(video, time) {
  const wanted = time + HALF_A_MILLISECOND;
  const end = video.duration;
  const last = Math.max(0, end - 0.05);
  video.currentTime = Math.min(wanted, last);
  video.goingTo?.abort();
  if (!(wanted > last)) return;
  video.goingTo = new AbortController();
  const again = () => video.duration > end && goTo(video, time);
  video.addEventListener('durationchange', again, { signal: video.goingTo.signal });
}
