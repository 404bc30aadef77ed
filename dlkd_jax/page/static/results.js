// The list of results.

import { plot, momentName } from './plot.js';
import { clock, make, score } from './text.js';

/** A bar a scorer: how it, alone, likes the video's best frame. */
function branches(scores) {
  return make('dl', { class: 'branches' }, ...Object.entries(scores).map(([name, value]) => {
    const bar = make('span', { class: 'bar', 'aria-hidden': 'true' }, make('span', { class: 'bar-fill' }));
    bar.firstChild.style.inlineSize = `${Math.min(100, Math.max(0, value * 100)).toFixed(1)}%`;
    return make('div', { class: `branch branch-${name}` }, make('dt', {}, name), make('dd', {}, bar, score(value)));
  }));
}

/** The moment's picture, a button that plays it. */
function still(hit, moment, onPlay) {
  const picture = (properties) => moment.thumbnail && make('img', {
    src: moment.thumbnail, alt: '', loading: 'lazy', decoding: 'async', ...properties,
  });
  const fill = picture({ class: 'still-fill' });
  const image = picture({
    load: () => button.classList.add('still-loaded'),
    error: () => {
      image.remove();
      fill.remove();
      button.classList.add('still-none');
    },
  });
  const button = make('button', {
    class: image ? 'still' : 'still still-none', type: 'button', click: onPlay,
    'aria-label': `Play ${hit.title} from ${clock(moment.start)}`,
  }, fill, image, make('span', { class: 'still-play', 'aria-hidden': 'true' }),
  make('span', { class: 'still-time', 'aria-hidden': 'true' }, clock(moment.start)));
  return button;
}

/** Buttons of a result's moments. */
function chips(hit, onPlay) {
  return make('div', { class: 'chips', role: 'group', 'aria-label': 'Moments' }, ...hit.moments.map((moment, number) =>
    make('button', {
      class: number ? 'chip' : 'chip chip-best', type: 'button', click: () => onPlay(number),
      'aria-label': `Play the moment from ${clock(moment.start)} to ${clock(moment.end)}, score ${score(moment.score)}`,
      title: `Score ${score(moment.score)}`,
    }, momentName(moment))));
}

/** One result. onPlay(moment number, seconds or null). */
export function result(hit, rank, range, onPlay) {
  const curve = plot(hit, range, { onSeek: (time) => onPlay(0, time) });
  return make('li', { class: 'result', 'data-id': hit.video_id },
    still(hit, hit.moments[0], () => onPlay(0, null)),
    make('div', { class: 'result-body' },
      make('div', { class: 'result-head' },
        make('span', { class: 'rank', 'aria-hidden': 'true' }, String(rank)),
        make('h2', { class: 'title', title: hit.title }, hit.title),
        hit.duration ? make('span', { class: 'length' }, clock(hit.duration)) : null,
        make('span', { class: 'score', title: 'Score of the video', 'aria-label': `score ${score(hit.score)}` },
          score(hit.score))),
      curve.element,
      make('div', { class: 'result-foot' }, chips(hit, (number) => onPlay(number, null)), branches(hit.scores))));
}

/** What is shown while a search runs. */
export function skeletons(number) {
  return Array.from({ length: number }, () => make('li', { class: 'result skeleton', 'aria-hidden': 'true' },
    make('div', { class: 'still' }),
    make('div', { class: 'result-body' },
      make('div', { class: 'bone bone-title' }), make('div', { class: 'bone bone-plot' }),
      make('div', { class: 'bone bone-foot' }))));
}
