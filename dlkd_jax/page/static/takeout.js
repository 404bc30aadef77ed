// What can be taken out of a film: a clip of the moment, as it is or exact, and the picture that is shown.

import * as api from './api.js';
import { make } from './text.js';

/** A menu; `moment()` and `seconds()` are those that are shown. Null where the index knows of no file. */
export function takeOut(hit, moment, seconds) {
  if (!hit.video) return null;
  const said = make('span', { class: 'takeout-said', role: 'status' });
  const say = (text) => { said.textContent = text; };
  const clip = async (cut, button) => {
    const { start, end } = moment();
    button.disabled = true;
    say('Cutting the clip…');
    try {
      keep((await api.clip(hit.video, start, end, cut)).video);
      say('');
    } catch (error) {
      say(error.message);
    } finally {
      button.disabled = false;
    }
  };
  const still = (format) => keep(`still?${api.film(hit.video)}&at=${seconds().toFixed(3)}&format=${format}`);
  const item = (text, title, click) => {
    const button = make('button', { class: 'quiet', type: 'button', title, click: () => click(button) }, text);
    return button;
  };
  return make('details', { class: 'takeout' }, make('summary', { class: 'quiet' }, 'Take out'),
    make('div', { class: 'takeout-items', role: 'group', 'aria-label': 'Take out' },
      item('Clip, as it is', 'Fast, without loss; begins at a key frame before the moment', (button) => clip('copy', button)),
      item('Clip, exact', 'From frame to frame, encoded anew', (button) => clip('exact', button)),
      item('Picture, PNG', 'The frame that is shown', () => still('png')),
      item('JPEG', 'The frame that is shown', () => still('jpeg')), said));
}

/** Has the browser keep what is at an address. */
function keep(address) {
  const link = make('a', { href: address, download: '' });
  document.body.append(link);
  link.click();
  link.remove();
}
