// The player: a dialog with the video at the moment, its frame curve as a timeline, and its moments.

import * as api from './api.js';
import { Film } from './film.js';
import { plot } from './plot.js';
import { inOrder, strip } from './strip.js';
import { takeOut } from './takeout.js';
import { clock, draw, make } from './text.js';

const FRAMES = 6;
const HEADINGS = {
  gone: 'The file is gone',
  format: 'Browsers do not play this format',
  damaged: 'The file is damaged',
};
const NO_FILE = {
  code: 'no_file',
  message: 'The index knows of no file of this video; it was built from features alone.',
};

/** The dialog; it shows one result at a time. */
export class Player {
  /**
   * dialog: the element. onClose(): it was closed. onStep(by): the result before (-1) or after (1) is asked for.
   * onMoment(number): that moment of the result is played. onLike(seconds): more like that is asked for.
   */
  constructor(dialog, { onClose, onStep, onMoment, onLike }) {
    Object.assign(this, { dialog, onClose, onStep, onMoment, onLike, hit: null, film: null });
    // The browser tells of a dialog that it closed only a while after; another result may be open by then.
    dialog.addEventListener('cancel', (event) => {
      event.preventDefault();
      this.close();
    });
    dialog.addEventListener('close', () => dialog.open || this.#end());
    dialog.addEventListener('click', (event) => {
      if (event.target === dialog) this.close(); // The backdrop.
    });
    dialog.addEventListener('keydown', (event) => this.#key(event));
  }

  close() {
    if (this.dialog.open) this.dialog.close();
    this.#end();
  }

  #end() {
    if (!this.hit) return;
    this.#stop();
    this.hit = null;
    this.dialog.replaceChildren();
    this.onClose();
  }

  /**
   * Shows a result and plays it.
   *
   * hit: as the server sends it. range: of `scale`. number: of the moment. seconds: where to begin, null for the
   * moment's start. place: { first, last }, whether there is no result before or after it.
   */
  open(hit, range, number, seconds, place) {
    const { volume = 1, muted = false } = this.film?.element ?? {};
    this.#stop();
    this.hit = hit;
    this.number = number;
    const film = new Film(hit, {
      onTime: (time) => this.#shown(time),
      onMaking: () => this.#making(),
      onPlayable: () => this.#playable(),
      onFail: (why) => this.#fail(why.code === 'no_file' ? NO_FILE : why),
    });
    this.film = film;
    Object.assign(film.element, { volume, muted });
    this.stage = make('div', { class: 'stage' }, film.element);
    this.timeline = plot(hit, range, { height: 92, chosen: number, onSeek: (time) => this.#seek(time) });
    this.dialog.classList.remove('in-moment', 'unplayed');
    const parts = [this.#head(place), this.stage, this.timeline.element, facts(hit), this.#foot()];
    this.dialog.replaceChildren(...parts.filter(Boolean));
    if (!this.dialog.open) this.dialog.showModal();
    film.element.focus({ preventScroll: true });
    film.start(seconds ?? this.moment.start);
    if (hit.video) this.#captions(film);
  }

  /** Captions, where something is said. */
  async #captions(film) {
    try {
      const { tracks } = await api.cues(this.hit.video);
      if (film === this.film && tracks.length) film.caption(tracks);
    } catch {
      // The film plays without them.
    }
  }

  get moment() {
    return this.hit.moments[this.number];
  }

  #head(place) {
    return make('div', { class: 'player-head' },
      make('h2', { id: 'player-title', class: 'title', title: this.hit.title }, this.hit.title),
      icon('Result before this one', 'M10 4 6 8l4 4', place.first, () => this.onStep(-1)),
      icon('Next result', 'm6 4 4 4-4 4', place.last, () => this.onStep(1)),
      icon('Close', 'm4 4 8 8m0-8-8 8', false, () => this.close()));
  }

  #foot() {
    this.strip = strip(this.hit, this.number, (number) => this.#choose(number));
    this.loop = make('button', {
      class: 'quiet', type: 'button', 'aria-pressed': 'false',
      click: () => this.loop.setAttribute('aria-pressed', String(!this.repeats)),
    }, 'Repeat the moment');
    return make('div', { class: 'player-foot' },
      this.strip, make('div', { class: 'player-actions' }, this.loop, copier(),
        make('button', { class: 'quiet', type: 'button', click: () => this.onLike(this.#second) }, 'More like this'),
        takeOut(this.hit, () => this.moment, () => this.#second)),
      make('p', { class: 'keys' },
        make('kbd', {}, 'Space'), ' pause ', make('kbd', {}, '←'), make('kbd', {}, '→'), ' moments ',
        make('kbd', {}, '↑'), make('kbd', {}, '↓'), ' results ', make('kbd', {}, 'Esc'), ' close'));
  }

  get repeats() {
    return this.loop.getAttribute('aria-pressed') === 'true';
  }

  #shown(time) {
    const { start, end } = this.moment;
    this.timeline.move(time);
    this.dialog.classList.toggle('in-moment', time >= start - 0.05 && time < end);
    if (this.repeats && !this.film.paused && time >= end) this.film.seek(start);
  }

  #seek(time) {
    this.film.seek(time);
  }

  #choose(number) {
    this.number = number;
    for (const one of this.strip.children) one.setAttribute('aria-pressed', String(Number(one.dataset.moment) === number));
    this.timeline.choose(number);
    this.onMoment(number);
    this.#seek(this.moment.start);
  }

  /** The moment before or after, in the order of the film. */
  #stepMoment(by) {
    const order = inOrder(this.hit);
    this.#choose(order[Math.min(order.length - 1, Math.max(0, order.indexOf(this.number) + by))]);
  }

  /** The second that is shown, or the moment's peak where the film does not play. */
  get #second() {
    return this.film.element.hidden || !this.film.element.readyState ? this.moment.peak : this.film.time;
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const toggle = () => (this.film.paused ? this.film.play() : this.film.pause());
    // Buttons and a focused video have a use for the space bar of their own.
    const taken = event.target.closest('button, summary, video');
    const action = {
      ArrowUp: () => this.onStep(-1),
      ArrowDown: () => this.onStep(1),
      ArrowLeft: () => this.#stepMoment(-1),
      ArrowRight: () => this.#stepMoment(1),
      ' ': taken ? null : toggle,
      k: toggle,
    }[event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  #stop() {
    this.film?.end();
    this.film = null;
  }

  /** Says that the film is being made playable, with pictures of the moment meanwhile. */
  #making() {
    this.#say('Making this part playable…', 'Browsers do not play this film as it is. It takes some seconds.', 'status');
    this.stage.querySelector('.stage-message h3').before(make('span', { class: 'spinner', 'aria-hidden': 'true' }));
  }

  #playable() {
    const message = this.stage.querySelector('.stage-message');
    const focused = message?.contains(document.activeElement);
    message?.remove();
    this.film.element.hidden = false;
    this.dialog.classList.remove('unplayed');
    if (focused) this.film.element.focus({ preventScroll: true });
  }

  /** Says why a video does not play, and shows pictures of the moment where the server can make them. */
  #fail({ code, message }) {
    this.#say(HEADINGS[code] ?? 'This video cannot be played', message, 'alert', code === 'format');
  }

  #say(heading, text, role, stills = true) {
    const strip = stills && this.moment.thumbnail ? pictures(this.moment) : null;
    const message = make('div', { class: 'stage-message', role, tabindex: '-1' },
      make('h3', {}, heading), make('p', {}, text), strip);
    this.film.element.hidden = true;
    this.dialog.classList.add('unplayed');
    this.stage.querySelector('.stage-message')?.remove();
    this.stage.append(message);
    message.focus({ preventScroll: true });
  }
}

/** Pictures of a moment, in place of its video. */
function pictures({ start, end, thumbnail }) {
  const address = new URL(thumbnail, location.href);
  return make('div', { class: 'strip' }, ...Array.from({ length: FRAMES }, (_, n) => {
    const time = start + ((n + 0.5) / FRAMES) * (end - start);
    address.searchParams.set('at', time.toFixed(2));
    return make('figure', {},
      make('img', { src: address.href, alt: '' }), make('figcaption', {}, clock(time, true)));
  }));
}

/** Whatever the index knows of the video besides. */
function facts(hit) {
  const known = Object.entries(hit.metadata);
  if (!known.length) return null;
  return make('dl', { class: 'facts' },
    ...known.map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, ...words(value)))));
}

/** What the index says, in words: each of several values for itself. */
function words(value) {
  if (Array.isArray(value)) return value.flatMap((one) => [make('span', { class: 'fact' }, ...words(one)), ' ']);
  if (typeof value === 'boolean') return [value ? 'yes' : 'no'];
  return [value == null ? 'unknown' : String(value)];
}

/** A button that copies the page's address; nothing where the browser does not let it. */
function copier() {
  if (!navigator.clipboard) return null;
  const button = make('button', {
    class: 'quiet', type: 'button',
    click: async () => {
      try {
        await navigator.clipboard.writeText(location.href);
        button.textContent = 'Copied';
      } catch {
        button.textContent = 'Not allowed';
      }
      setTimeout(() => { button.textContent = 'Copy the link'; }, 1500);
    },
  }, 'Copy the link');
  return button;
}

function icon(label, path, disabled, click) {
  return make('button', { class: 'icon', type: 'button', 'aria-label': label, title: label, disabled, click },
    draw('svg', { viewBox: '0 0 16 16', 'aria-hidden': 'true' }, draw('path', { d: path })));
}
