// The moments of a film as a strip of pictures, in the order of the film.

import { momentName } from './plot.js';
import { clock, make, score } from './text.js';

/** Numbers of the moments of a result, in the order of the film. */
export const inOrder = (hit) => hit.moments.map((_, number) => number)
  .sort((one, other) => hit.moments[one].start - hit.moments[other].start);

/** Buttons; onPick(number): that moment is chosen. `chosen`: the number of the one that is shown, null where none is. */
export function strip(hit, chosen, onPick) {
  const buttons = inOrder(hit).map((number) => {
    const one = hit.moments[number];
    const image = one.thumbnail && make('img', {
      src: one.thumbnail, alt: '', loading: 'lazy', decoding: 'async', error: () => image.remove(),
    });
    return make('button', {
      class: number ? 'moment' : 'moment moment-best', type: 'button', 'data-moment': number,
      'aria-pressed': chosen === null ? null : String(number === chosen), click: () => onPick(number),
      'aria-label': `Play the moment from ${clock(one.start)} to ${clock(one.end)}, score ${score(one.score)}`,
      title: `Score ${score(one.score)}`,
    }, image, make('span', { class: 'moment-time' }, momentName(one)));
  });
  return make('div', { class: 'moments', role: 'group', 'aria-label': 'Moments' }, ...buttons);
}
