// What goes with the sentence: chips that can be removed, and the ways to add one: but not, filters, a picture.

import * as api from './api.js';
import { momentOf } from './ask.js';
import { clock, make } from './text.js';

const PICTURES = ['image/png', 'image/jpeg', 'image/webp'];

/** The row under the field. */
export class Parts {
  /**
   * elements: chips, adders, without, where, facets, choose, file. ask(): what is asked for now. onAsk(ask): that
   * is to be asked for. title(name): what a video is called, as far as it is known.
   */
  constructor(elements, { ask, onAsk, title }) {
    Object.assign(this, elements, { ask, onAsk, title });
    for (const button of this.adders) button.addEventListener('click', () => this.#open(button));
    this.choose.addEventListener('click', () => this.file.click());
    this.file.addEventListener('change', () => this.#picture(this.file.files));
    for (const [kind, over] of [['dragenter', true], ['dragover', true], ['dragleave', false], ['drop', false]]) {
      document.addEventListener(kind, (event) => this.#drag(event, over));
    }
    document.addEventListener('paste', (event) => this.#picture(event.clipboardData?.files));
  }

  /** What is typed in the fields besides the sentence, added to what is asked for; the fields are emptied. */
  typed(ask) {
    const added = { ...ask };
    if (this.without.value.trim()) added.without = [...new Set([...ask.without, this.without.value.trim()])];
    if (this.where.value.trim()) added.where = [...new Set([...ask.where, this.where.value.trim()])];
    this.without.value = '';
    this.where.value = '';
    return added;
  }

  /** Shows the parts of what is asked for. */
  show(ask) {
    const chips = [];
    if (ask.picture) chips.push(this.#chip('picture', 'Picture', ask.picture.name, { picture: null }, preview(ask.picture)));
    if (ask.like) {
      const { name, seconds } = momentOf(ask.like);
      const at = Number.parseFloat(seconds);
      const text = `${this.title(name)} at ${Number.isFinite(at) ? clock(at) : seconds}`;
      chips.push(this.#chip('like', 'Like', text, { like: null }));
    }
    for (const one of ask.without) {
      chips.push(this.#chip('without', 'Not', one, { without: ask.without.filter((other) => other !== one) }));
    }
    for (const one of ask.where) {
      chips.push(this.#chip('where', 'Only', one, { where: ask.where.filter((other) => other !== one) }));
    }
    this.chips.replaceChildren(...chips);
    this.chips.hidden = !chips.length;
    for (const button of this.facets.querySelectorAll('[data-filter]')) {
      button.setAttribute('aria-pressed', String(ask.where.includes(button.dataset.filter)));
    }
  }

  #chip(kind, label, text, without, image = null) {
    return make('li', { class: `part part-${kind}` }, image, make('span', { class: 'part-kind' }, label), ' ',
      make('span', { class: 'part-text', title: text }, text),
      make('button', {
        class: 'part-remove', type: 'button', 'aria-label': `Remove: ${label.toLowerCase()} ${text}`,
        click: () => this.onAsk({ ...this.ask(), ...without }),
      }, '×'));
  }

  /** Opens what a button of the row leads to, or closes it; one at a time. */
  #open(button) {
    for (const other of this.adders) {
      const open = other === button && other.getAttribute('aria-expanded') !== 'true';
      other.setAttribute('aria-expanded', String(open));
      const panel = document.getElementById(other.getAttribute('aria-controls'));
      panel.hidden = !open;
      if (!open) continue;
      if (panel.contains(this.facets)) this.#offer();
      panel.querySelector('input').focus();
    }
  }

  #drag(event, over) {
    if (![...(event.dataTransfer?.types ?? [])].includes('Files')) return;
    event.preventDefault(); // The browser would open it.
    document.body.classList.toggle('dropping', over);
    if (event.type === 'drop') this.#picture(event.dataTransfer.files);
  }

  #picture(files) {
    const picture = [...(files ?? [])].find((file) => PICTURES.includes(file.type));
    this.file.value = '';
    if (picture) this.onAsk({ ...this.ask(), picture, like: null });
    else if (files?.length) this.onAsk(null, 'A PNG, JPEG or WebP file can be searched with; this is none.');
  }

  /** What there is to filter by, asked for when somebody looks. */
  async #offer() {
    let fields;
    try {
      ({ fields } = await api.filters());
    } catch {
      return; // A filter can be written all the same.
    }
    // What all have alike tells nothing apart.
    const telling = fields.filter(({ values, videos }) => values?.length !== 1 || values[0].videos < videos);
    this.facets.replaceChildren(...telling.map((field) => make('div', { class: 'facet' },
      make('span', { class: 'facet-name' }, field.name),
      ...(field.values ? field.values.slice(0, 12).map((value) => this.#value(field, value)) : [this.#range(field)]))));
    this.show(this.ask());
  }

  #value(field, { value, videos, filter }) {
    const toggle = () => {
      const { where } = this.ask();
      this.onAsk({
        ...this.ask(), where: where.includes(filter) ? where.filter((one) => one !== filter) : [...where, filter],
      });
    };
    return make('button', {
      class: 'facet-value', type: 'button', 'data-filter': filter, 'aria-pressed': 'false', click: toggle,
      'aria-label': `Only ${field.name} ${value}, ${videos} videos`,
    }, String(value === true ? 'yes' : value === false ? 'no' : value), make('span', { class: 'facet-count' }, String(videos)));
  }

  #range({ field, name, kind, least, most }) {
    const day = (value) => (kind === 'date' ? String(value).slice(0, 10) : String(value));
    const bound = (label, sign, value) => make('input', {
      class: 'facet-bound', type: kind === 'date' ? 'date' : 'text', inputmode: kind === 'date' ? null : 'decimal',
      'aria-label': `${name} ${label}`, placeholder: day(value), 'data-sign': sign,
    });
    const [from, to] = [bound('from', '>=', least), bound('to', '<=', most)];
    const add = () => {
      const found = [from, to].filter((one) => one.value.trim()).map((one) => `${field} ${one.dataset.sign} ${one.value.trim()}`);
      if (found.length) this.onAsk({ ...this.ask(), where: [...new Set([...this.ask().where, ...found])] });
    };
    for (const one of [from, to]) {
      one.addEventListener('keydown', (event) => {
        if (event.key !== 'Enter') return;
        event.preventDefault();
        add();
      });
    }
    return make('span', { class: 'facet-range' }, from, '–', to,
      make('button', { class: 'facet-value', type: 'button', click: add, 'aria-label': `Filter by ${name}` }, 'Set'));
  }
}

/** A small drawing of a picture. */
function preview(picture) {
  const canvas = make('canvas', { class: 'part-preview', width: 44, height: 44, 'aria-hidden': 'true' });
  createImageBitmap(picture).then((image) => {
    const scale = 44 / Math.min(image.width, image.height);
    const [width, height] = [image.width * scale, image.height * scale];
    canvas.getContext('2d').drawImage(image, (44 - width) / 2, (44 - height) / 2, width, height);
  }).catch(() => canvas.remove());
  return canvas;
}
