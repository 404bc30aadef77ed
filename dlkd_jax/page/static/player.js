// The player: a dialog with the video at the moment, its frame curve as a timeline, and its moments.

import { account } from './api.js';
import { plot, momentName } from './plot.js';
import { clock, draw, make, score } from './text.js';

const FRAMES = 6;
// Times of frames are equal to those of samples within this much: what rounding to milliseconds adds.
const HALF_A_MILLISECOND = 0.0005;
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
   * onMoment(number): that moment of the result is played.
   */
  constructor(dialog, { onClose, onStep, onMoment }) {
    Object.assign(this, { dialog, onClose, onStep, onMoment, hit: null, video: null });
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
    const { volume = 1, muted = false } = this.video ?? {};
    this.#stop();
    this.hit = hit;
    this.number = number;
    this.video = make('video', {
      class: 'screen', controls: true, playsinline: true, preload: 'metadata', tabindex: '0', 'aria-label': hit.title,
    });
    Object.assign(this.video, { volume, muted });
    this.stage = make('div', { class: 'stage' }, this.video);
    this.timeline = plot(hit, range, { height: 92, chosen: number, onSeek: (time) => this.#seek(time) });
    this.dialog.classList.remove('in-moment', 'unplayed');
    const parts = [this.#head(place), this.stage, this.timeline.element, facts(hit), this.#foot()];
    this.dialog.replaceChildren(...parts.filter(Boolean));
    this.#listen(this.video, seconds);
    if (!this.dialog.open) this.dialog.showModal();
    this.video.focus({ preventScroll: true });
    if (hit.video) this.video.src = hit.video;
    else this.#fail(this.video);
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
    this.chips = this.hit.moments.map((one, number) => make('button', {
      class: 'chip', type: 'button', 'aria-pressed': String(number === this.number),
      'aria-label': `Moment from ${clock(one.start)} to ${clock(one.end)}, score ${score(one.score)}`,
      click: () => this.#choose(number),
    }, momentName(one)));
    this.loop = make('button', {
      class: 'quiet', type: 'button', 'aria-pressed': 'false',
      click: () => this.loop.setAttribute('aria-pressed', String(!this.repeats)),
    }, 'Repeat the moment');
    return make('div', { class: 'player-foot' },
      make('div', { class: 'chips', role: 'group', 'aria-label': 'Moments' }, ...this.chips),
      this.loop, copier(),
      make('p', { class: 'keys' },
        make('kbd', {}, 'Space'), ' pause ', make('kbd', {}, '←'), make('kbd', {}, '→'), ' moments ',
        make('kbd', {}, '↑'), make('kbd', {}, '↓'), ' results ', make('kbd', {}, 'Esc'), ' close'));
  }

  get repeats() {
    return this.loop.getAttribute('aria-pressed') === 'true';
  }

  #listen(video, seconds) {
    video.addEventListener('loadedmetadata', () => {
      goTo(video, seconds ?? this.moment.start);
      play(video);
    }, { once: true });
    video.addEventListener('timeupdate', () => {
      if (video !== this.video) return;
      const { start, end } = this.moment;
      this.timeline.move(video.currentTime);
      this.dialog.classList.toggle('in-moment', video.currentTime >= start - 0.05 && video.currentTime < end);
      if (this.repeats && !video.paused && video.currentTime >= end) goTo(video, start);
    });
    video.addEventListener('error', () => this.#fail(video));
  }

  #seek(time) {
    goTo(this.video, time);
    play(this.video);
  }

  #choose(number) {
    this.number = number;
    this.chips.forEach((chip, i) => chip.setAttribute('aria-pressed', String(i === number)));
    this.timeline.choose(number);
    this.onMoment(number);
    this.#seek(this.moment.start);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const toggle = () => (this.video.paused ? play(this.video) : this.video.pause());
    // Buttons and a focused video have a use for the space bar of their own.
    const taken = event.target.closest('button, video');
    const action = {
      ArrowUp: () => this.onStep(-1),
      ArrowDown: () => this.onStep(1),
      ArrowLeft: () => this.#choose(Math.max(0, this.number - 1)),
      ArrowRight: () => this.#choose(Math.min(this.hit.moments.length - 1, this.number + 1)),
      ' ': taken ? null : toggle,
      k: toggle,
    }[event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  #stop() {
    if (!this.video) return;
    this.video.pause();
    this.video.removeAttribute('src'); // Ends the request.
    this.video.load();
    this.video = null;
  }

  /** Says why a video does not play, and shows pictures of the moment where the server can make them. */
  async #fail(video) {
    if (video !== this.video) return; // It was ended.
    const why = this.hit.video ? await reason(this.hit.video) : NO_FILE;
    if (video !== this.video) return; // Another one is shown by now.
    const strip = why.code === 'format' && this.moment.thumbnail ? pictures(this.moment) : null;
    const message = make('div', { class: 'stage-message', role: 'alert', tabindex: '-1' },
      make('h3', {}, HEADINGS[why.code] ?? 'This video cannot be played'), make('p', {}, why.message), strip);
    video.hidden = true;
    this.dialog.classList.add('unplayed');
    this.stage.querySelector('.stage-message')?.remove();
    this.stage.append(message);
    message.focus({ preventScroll: true });
  }
}

/** What the server says of a file that did not play. */
async function reason(address) {
  try {
    const why = await account(address);
    if (why.code !== 'fine') return why;
    return { code: 'fine', message: 'The browser could not play the file, though it is in order. Try it again.' };
  } catch (error) {
    return { code: error.code, message: error.message };
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

/** Plays; without sound where the browser wants a click first. */
async function play(video) {
  try {
    await video.play();
  } catch (error) {
    if (error.name !== 'NotAllowedError') return;
    video.muted = true;
    await video.play().catch(() => {});
  }
}
