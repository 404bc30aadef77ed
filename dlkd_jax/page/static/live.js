// What happens to the index meanwhile: an addition that runs, and films that have come since the last search.

import * as api from './api.js';
import { count, lasting, make } from './text.js';

// Milliseconds from one look to the next, while an addition runs and else.
const [SOON, LATER] = [3000, 12000];

/** Looks at the server as long as somebody looks at the page. */
export class Live {
  /** place: where it says so. onInfo(info): what the server says is new. onAgain(): to search again is asked for. */
  constructor(place, { onInfo, onAgain }) {
    Object.assign(this, { place, onInfo, onAgain, info: null, seen: null, timer: null, looking: null });
    document.addEventListener('visibilitychange', () => document.hidden || this.look());
  }

  /** What is shown is of this state of the index. */
  saw({ state, arrived }) {
    this.seen = { state, arrived };
    this.#show();
  }

  /** Asks the server; who asks meanwhile gets the same answer. */
  look() {
    this.looking ??= this.#look().finally(() => { this.looking = null; });
    return this.looking;
  }

  async #look() {
    clearTimeout(this.timer);
    try {
      const info = await api.info();
      const news = this.info?.state !== info.state;
      this.info = info;
      this.seen ??= info;
      if (news) this.onInfo(info);
      this.#show();
    } catch {
      // The search, or the welcome without numbers, says enough.
    }
    clearTimeout(this.timer);
    if (!document.hidden) this.timer = setTimeout(() => this.look(), this.info?.adding ? SOON : LATER);
  }

  #show() {
    if (!this.info) return;
    const parts = [addition(this.info.adding), this.#news()].filter(Boolean);
    const text = parts.map((part) => part.textContent).join();
    if (text === this.text) return; // A screen reader would say it again.
    this.text = text;
    this.place.replaceChildren(...parts);
    this.place.hidden = !parts.length;
  }

  #news() {
    if (this.info.state === this.seen.state || document.body.classList.contains('idle')) return null;
    const films = this.info.arrived - this.seen.arrived;
    const text = films > 0 ? `${count(films, 'new film')} in the index` : 'The index has changed';
    return make('div', { class: 'live-news' }, make('span', {}, text), ' ',
      make('button', { class: 'quiet', type: 'button', click: () => this.onAgain() }, 'Search again'));
  }
}

/** An addition that runs: how far it is, and how long it will take; nothing where none does. */
function addition(adding) {
  if (!adding) return null;
  const { done, total, share, left } = adding;
  const rest = left == null ? '' : `, about ${lasting(Math.max(1, left))} left`;
  const text = `Films are being added: ${done.toLocaleString('en')} of ${total.toLocaleString('en')}${rest}`;
  return make('div', { class: 'live-adding' }, make('span', {}, text),
    make('progress', { max: 1, value: share, 'aria-label': 'How much of it is done' }));
}
