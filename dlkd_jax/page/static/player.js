// The player: a dialog with the video at the moment, its frame curve as a timeline, and its moments.

import { account } from './api.js';
import { plot, momentName } from './plot.js';
import { clock, make, score } from './text.js';

const FRAMES = 6;

/**
 * dialog: the element. onClose(): after it closed. onStep(by): asks for the result before (-1) or after (1).
 * Returns { open(hit, range, number, seconds, place), close() }.
 */
export function player(dialog, { onClose, onStep, onMoment }) {
  let video = null;

  function stop() {
    if (!video) return;
    video.pause();
    video.removeAttribute('src'); // Ends the request.
    video.load();
    video = null;
  }

  dialog.addEventListener('close', () => {
    stop();
    dialog.replaceChildren();
    onClose();
  });
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog) dialog.close(); // The backdrop.
  });

  function open(hit, range, number, seconds, place) {
    const { volume = 1, muted = false } = video ?? {};
    stop();
    let moment = hit.moments[number];
    const own = make('video', {
      class: 'screen', controls: true, playsinline: true, preload: 'metadata', tabindex: '0',
      'aria-label': hit.title,
    });
    Object.assign(own, { volume, muted });
    const stage = make('div', { class: 'stage' }, own);
    const timeline = plot(hit, range, { height: 92, chosen: number, onSeek: (time) => seek(time) });
    const buttons = hit.moments.map((one, n) => make('button', {
      class: 'chip', type: 'button', 'aria-pressed': String(n === number), click: () => choose(n),
      'aria-label': `Moment from ${clock(one.start)} to ${clock(one.end)}, score ${score(one.score)}`,
    }, momentName(one)));
    const loop = make('button', {
      class: 'quiet', type: 'button', 'aria-pressed': 'false',
      click: () => loop.setAttribute('aria-pressed', String(loop.getAttribute('aria-pressed') !== 'true')),
    }, 'Repeat the moment');

    function seek(time) {
      own.currentTime = time;
      play(own);
    }
    function choose(n) {
      moment = hit.moments[n];
      buttons.forEach((button, i) => button.setAttribute('aria-pressed', String(i === n)));
      timeline.choose(n);
      onMoment(n);
      seek(moment.start);
    }

    own.addEventListener('loadedmetadata', () => {
      own.currentTime = Math.min(seconds ?? moment.start, Math.max(0, own.duration - 0.05));
      play(own);
    }, { once: true });
    own.addEventListener('timeupdate', () => {
      timeline.move(own.currentTime);
      const inside = own.currentTime >= moment.start - 0.05 && own.currentTime < moment.end;
      dialog.classList.toggle('in-moment', inside);
      if (loop.getAttribute('aria-pressed') === 'true' && !own.paused && own.currentTime >= moment.end) {
        own.currentTime = moment.start;
      }
    });
    own.addEventListener('error', () => fail(hit, moment, stage, own));

    dialog.classList.remove('in-moment', 'unplayed');
    dialog.replaceChildren(...[
      make('div', { class: 'player-head' },
        make('h2', { id: 'player-title', class: 'title', title: hit.title }, hit.title),
        step('Result before this one', 'M10 4 6 8l4 4', place.first, () => onStep(-1)),
        step('Next result', 'm6 4 4 4-4 4', place.last, () => onStep(1)),
        step('Close', 'm4 4 8 8m0-8-8 8', false, () => dialog.close())),
      stage, timeline.element,
      facts(hit),
      make('div', { class: 'player-foot' },
        make('div', { class: 'chips', role: 'group', 'aria-label': 'Moments' }, ...buttons), loop,
        make('p', { class: 'keys' }, make('kbd', {}, 'Space'), ' pause ', make('kbd', {}, '←'), make('kbd', {}, '→'),
          ' moments ', make('kbd', {}, '↑'), make('kbd', {}, '↓'), ' results ', make('kbd', {}, 'Esc'), ' close'))].filter(Boolean));
    dialog.onkeydown = (event) => keys(event, own, hit, () => hit.moments.indexOf(moment), choose);
    if (!dialog.open) dialog.showModal();
    video = own;
    own.focus({ preventScroll: true });
    if (hit.video) own.src = hit.video;
    else fail(hit, moment, stage, own);
  }

  function keys(event, own, hit, number, choose) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    // Buttons and a focused video have a use for the space bar of their own.
    const taken = event.target.closest('button, video');
    const actions = {
      ArrowUp: () => onStep(-1),
      ArrowDown: () => onStep(1),
      ArrowLeft: () => choose(Math.max(0, number() - 1)),
      ArrowRight: () => choose(Math.min(hit.moments.length - 1, number() + 1)),
      ' ': taken ? null : () => (own.paused ? play(own) : own.pause()),
      k: () => (own.paused ? play(own) : own.pause()),
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  return { open, close: () => dialog.open && dialog.close() };
}

/** Whatever the index knows of the video besides. */
function facts(hit) {
  const known = Object.entries(hit.metadata);
  if (!known.length) return null;
  return make('dl', { class: 'facts' },
    ...known.map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, value))));
}

function step(label, path, disabled, click) {
  const button = make('button', { class: 'icon', type: 'button', 'aria-label': label, title: label, disabled, click });
  const drawing = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  drawing.setAttribute('viewBox', '0 0 16 16');
  drawing.setAttribute('aria-hidden', 'true');
  const line = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  line.setAttribute('d', path);
  drawing.append(line);
  button.append(drawing);
  return button;
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

/** Says why a video does not play, and shows pictures of the moment where the server can make them. */
async function fail(hit, moment, stage, video) {
  let why = { code: 'no_file', message: 'The index knows of no file of this video; it was built from features alone.' };
  if (hit.video) {
    try {
      why = await account(hit.id);
    } catch (error) {
      why = { code: error.code, message: error.message };
    }
    if (why.code === 'fine') why.message = 'The browser could not play the file, though it is in order. Try it again.';
  }
  if (!video.isConnected) return; // Another one is shown by now.
  const strip = make('div', { class: 'strip' });
  if (moment.thumbnail && why.code === 'format') {
    for (let n = 0; n < FRAMES; n += 1) {
      const time = moment.start + ((n + 0.5) / FRAMES) * (moment.end - moment.start);
      const address = new URL(moment.thumbnail, location.href);
      address.searchParams.set('at', time.toFixed(2));
      strip.append(make('figure', {}, make('img', { src: address.pathname + address.search, alt: '' }),
        make('figcaption', {}, clock(time, true))));
    }
  }
  const heading = { gone: 'The file is gone', format: 'Browsers do not play this format', damaged: 'The file is damaged' };
  video.hidden = true;
  stage.parentElement.classList.add('unplayed');
  const message = make('div', { class: 'stage-message', role: 'alert', tabindex: '-1' },
    make('h3', {}, heading[why.code] ?? 'This video cannot be played'), make('p', {}, why.message),
    strip.childElementCount ? strip : null);
  stage.querySelector('.stage-message')?.remove();
  stage.append(message);
  message.focus({ preventScroll: true });
}
