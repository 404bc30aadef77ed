// The list of results.

import { plot } from './plot.js';
import { strip } from './strip.js';
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

/** What is said there, or about the video, with the words of the query marked; a click plays it. */
function said(hit, onPlay) {
  const lines = (hit.said ?? []).map(({ kind, text, marks, start }) => {
    const content = [
      make('span', { class: 'said-where' }, start == null ? `${kind}` : clock(start)), ' ',
      make('q', {}, ...marked(text, marks)),
    ];
    if (start == null) return make('li', { class: 'said' }, ...content);
    return make('li', { class: 'said' }, make('button', {
      type: 'button', class: 'said-play', click: () => onPlay(0, start), 'aria-label': `Play from ${clock(start)}: ${text}`,
    }, ...content));
  });
  return lines.length ? make('ul', { class: 'says', 'aria-label': 'What is said' }, ...lines) : null;
}

/** A text with some of its characters marked; they are counted by code points. */
function marked(text, marks) {
  const letters = [...text];
  const parts = [];
  let at = 0;
  for (const [from, to] of marks) {
    parts.push(letters.slice(at, from).join(''), make('mark', {}, letters.slice(from, to).join('')));
    at = to;
  }
  return [...parts, letters.slice(at).join('')];
}

/** One result. onPlay(moment number, seconds or null). onLike(seconds): more like that is asked for. */
export function result(hit, rank, range, onPlay, onLike) {
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
      curve.element, said(hit, onPlay),
      hit.moments.length > 1 ? strip(hit, null, (number) => onPlay(number, null)) : null,
      make('div', { class: 'result-foot' }, branches(hit.scores), make('button', {
        class: 'like', type: 'button', click: () => onLike(hit.moments[0].peak),
        'aria-label': `More like ${hit.title} at ${clock(hit.moments[0].peak)}`,
      }, 'More like this'))));
}

/** What is shown while a search runs. */
export function skeletons(number) {
  return Array.from({ length: number }, () => make('li', { class: 'result skeleton', 'aria-hidden': 'true' },
    make('div', { class: 'still' }),
    make('div', { class: 'result-body' },
      make('div', { class: 'bone bone-title' }), make('div', { class: 'bone bone-plot' }),
      make('div', { class: 'bone bone-foot' }))));
}
