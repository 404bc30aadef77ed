// The frame curve: how well each frame of a video fits the sentence, over its time, with the moments marked.

import { clock, draw, make, score, span } from './text.js';

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];
const AXIS = 20;
const TOP = 6;

/** Times of the axis: as many as have room, at round seconds. */
function ticks(end, width) {
  const label = end >= 3600 ? 84 : 62;
  const most = STEPS.at(-1);
  const step = STEPS.find((seconds) => (seconds / end) * width >= label) ?? most * Math.ceil(label * end / width / most);
  const times = [];
  for (let time = 0; time <= end; time += step) times.push(time);
  return times;
}

/** Where a value lies, for all plots of one search alike, so that they can be compared. */
export function scale(hits) {
  const values = hits.flatMap((hit) => hit.curve);
  const high = Math.max(...values);
  const sorted = values.toSorted((a, b) => a - b);
  const low = sorted[Math.floor(sorted.length * 0.02)];
  return { low: Math.min(low, high - 1e-3), high };
}

/**
 * A plot that fits itself to the width of its element.
 *
 * hit: as the server sends it. range: of `scale`. options: height in pixels, chosen (number of the moment that stands
 * out), onSeek(seconds).
 * Returns { element, choose(number), move(seconds): shows the second that is played }.
 */
export function plot(hit, range, { height = 74, chosen = 0, onSeek = null } = {}) {
  const { times, curve: values } = hit;
  const end = Math.max(hit.duration ?? 0, times.at(-1) ?? 0, ...hit.moments.map((moment) => moment.end), 1);
  const svg = draw('svg', { class: 'plot-drawing', height, 'aria-hidden': 'true' });
  const tip = make('span', { class: 'plot-tip', hidden: true });
  const best = hit.moments[chosen];
  const element = make('div', {
    class: 'plot', role: 'img',
    'aria-label': `How well each part of the video fits, best at ${clock(best.peak)} with ${score(best.score)}`,
  }, svg, tip);
  let width = 0;
  let playhead = null;
  let hair = null;
  let at = null;

  const x = (time) => (time / end) * width;
  const floor = height - AXIS;
  const y = (value) => {
    const share = (value - range.low) / (range.high - range.low);
    return floor - 1 - Math.min(1, Math.max(0, share)) * (floor - TOP - 1);
  };

  function redraw() {
    width = element.clientWidth;
    if (!width) return;
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    svg.setAttribute('width', width);
    const line = times.map((time, i) => `${i ? 'L' : 'M'}${x(time).toFixed(1)} ${y(values[i]).toFixed(1)}`).join('');
    const ends = [x(times[0]), x(times.at(-1))].map((place) => place.toFixed(1));
    playhead = draw('line', { class: 'plot-playhead', y1: 0, y2: floor, visibility: 'hidden' });
    hair = draw('line', { class: 'plot-hair', y1: 0, y2: floor, visibility: 'hidden' });
    svg.replaceChildren(
      ...hit.moments.map(moment), // Below the curve.
      draw('path', { class: 'plot-area', d: `${line}L${ends[1]} ${floor}L${ends[0]} ${floor}Z` }),
      draw('path', { class: 'plot-line', d: line }),
      draw('line', { class: 'plot-axis', x1: 0, x2: width, y1: floor + 0.5, y2: floor + 0.5 }),
      ...axis(),
      ...(hit.said ?? []).filter((one) => one.start != null).map(words), ...hit.moments.map(peak), hair, playhead,
    );
    move(at);
  }

  function moment({ start, end: stop }, number) {
    const wide = Math.max(3, x(stop) - x(start));
    const left = Math.max(0, Math.min(x(start), width - wide));
    const kind = number === chosen ? 'plot-moment plot-chosen' : 'plot-moment';
    return draw('rect', { class: kind, x: left, y: 0, width: wide, height: floor, rx: 2 });
  }

  /** Where words of the query are said. */
  function words({ start, end: stop, text }) {
    const left = Math.min(x(start), width - 4);
    const bar = draw('rect', { class: 'plot-said', x: left, y: floor - 5, width: Math.max(4, x(stop) - left), height: 5, rx: 2 });
    bar.append(draw('title', {}, `${clock(start)}: ${text}`));
    return bar;
  }

  function peak({ peak: time, score: value }, number) {
    const kind = number === chosen ? 'plot-peak plot-chosen' : 'plot-peak';
    return draw('circle', { class: kind, cx: x(time), cy: y(value), r: number === chosen ? 3.5 : 2.5 });
  }

  function axis() {
    return ticks(end, width).flatMap((time) => {
      const place = x(time);
      const anchor = place < 16 ? 'start' : place > width - 16 ? 'end' : 'middle';
      return [
        draw('line', { class: 'plot-axis', x1: place, x2: place, y1: floor, y2: floor + 4 }),
        draw('text', { class: 'plot-label', x: place, y: height - 3, 'text-anchor': anchor }, clock(time)),
      ];
    });
  }

  function move(seconds) {
    at = seconds;
    if (!playhead || seconds == null) return;
    const place = Math.min(x(seconds), width);
    playhead.setAttribute('visibility', 'visible');
    playhead.setAttribute('x1', place);
    playhead.setAttribute('x2', place);
  }

  function choose(number) {
    chosen = number;
    redraw();
  }

  if (onSeek) {
    const under = (event) => {
      const box = element.getBoundingClientRect();
      return Math.min(end, Math.max(0, ((event.clientX - box.left) / box.width) * end));
    };
    element.classList.add('plot-live');
    element.addEventListener('pointermove', (event) => {
      if (!hair || event.pointerType === 'touch') return;
      const time = under(event);
      for (const name of ['x1', 'x2']) hair.setAttribute(name, x(time));
      hair.setAttribute('visibility', 'visible');
      tip.hidden = false;
      tip.textContent = clock(time);
      tip.style.left = `${Math.min(Math.max(x(time), 18), width - 18)}px`;
    });
    element.addEventListener('pointerleave', () => {
      hair?.setAttribute('visibility', 'hidden');
      tip.hidden = true;
    });
    element.addEventListener('click', (event) => onSeek(under(event)));
  }
  new ResizeObserver(redraw).observe(element);
  return { element, choose, move };
}

/** A moment in words, for a button. */
export const momentName = ({ start, end }) => span(start, end);
