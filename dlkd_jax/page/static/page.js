// The page: what is searched for, what is shown, and the address that says so.

import * as api from './api.js';
import { NOTHING, fromAddress, isEmpty, moment, same, toAddress, words } from './ask.js';
import { Live } from './live.js';
import { Parts } from './parts.js';
import { Player } from './player.js';
import { scale } from './plot.js';
import { result, skeletons } from './results.js';
import { count, lasting, make } from './text.js';

const at = (id) => document.getElementById(id);
const [form, input, note, said, files, weak] = ['search', 'query', 'query-note', 'said', 'files', 'weak'].map(at);
const [status, notice, list, more, foot, dialog] = ['status', 'notice', 'results', 'more', 'foot', 'player'].map(at);

const TOUCH = matchMedia('(hover: none)');
// How often a search is tried again by itself where the server asks to wait, and the longest such wait in seconds.
const TRIES = 3;
const LONGEST = 30;
// Of a list that is saved, as the server allows.
const MOST_SAVED = 50;
const state = {
  ask: NOTHING, hits: [], total: 0, range: null, info: null, asked: null, shown: -1, retry: null, leaving: null,
  arrived: false, titles: new Map(),
};

// Searching.

async function search(ask, { offset = 0, tries = 0 } = {}) {
  clearTimeout(state.retry);
  state.asked?.abort();
  const asked = new AbortController();
  state.asked = asked;
  const first = offset === 0;
  list.setAttribute('aria-busy', 'true');
  more.disabled = true;
  // A fast answer should not flicker.
  const slow = setTimeout(() => {
    say('Searching…');
    if (!first) return;
    tell(null);
    more.hidden = true;
    list.replaceChildren(...skeletons(4));
  }, 120);
  try {
    const answer = await api.search(ask, offset, asked.signal);
    clearTimeout(slow);
    show(answer, first);
  } catch (error) {
    clearTimeout(slow);
    if (error.name === 'AbortError') return;
    fail(error, (again) => search(ask, { offset, tries: again }), first, tries);
  } finally {
    if (state.asked === asked) {
      list.removeAttribute('aria-busy');
      more.disabled = false;
    }
  }
}

function show(answer, first) {
  tell(null);
  if (first) {
    state.hits = [];
    list.replaceChildren();
    state.range = answer.hits.length ? scale(answer.hits) : null;
  }
  const before = state.hits.length;
  const there = new Set(state.hits.map((hit) => hit.video_id)); // The index may have changed since the last page.
  const hits = answer.hits.filter((hit) => !there.has(hit.video_id));
  if (first) live.saw(answer);
  state.hits.push(...hits);
  list.append(...hits.map((hit, n) => result(
    hit, before + n + 1, state.range, (number, seconds) => play(before + n, number, seconds),
    (seconds) => like(hit, seconds),
  )));
  // Of a large index the server does not count what it only estimates: then there is more while a page is full.
  const page = state.info?.top ?? 10;
  state.total = answer.total ?? (answer.hits.length < page ? state.hits.length : Infinity);
  const left = state.total - state.hits.length;
  more.hidden = left <= 0 || !answer.hits.length || state.hits.length > (state.info?.most_offset ?? Infinity);
  more.textContent = `Show ${count(Math.min(left, page), 'more result')}`;
  if (first) remark(answer.notes ?? []);
  if (first) weigh(answer);
  if (!state.hits.length) return nothing();
  const all = Number.isFinite(state.total) ? ` of ${count(state.total, 'video')}` : ' videos';
  const shown = left > 0 ? `The best ${state.hits.length.toLocaleString('en')}${all}` : count(state.total, 'video');
  say(`${shown}, found in ${Math.max(1, Math.round(answer.seconds * 1000))} ms`);
  offerFiles();
  if (!first) list.children[before]?.querySelector('.still').focus();
}

function nothing() {
  if (state.info?.videos === 0) return emptyIndex();
  say('No video fits well enough');
  const { q, where } = state.ask;
  const sought = q ? `“${q}”` : 'this';
  if (where.length) {
    tell('Nothing is left', [`There is no video for which “${where.join('” and “')}” holds and that fits ${sought}.`]);
    return;
  }
  tell('Nothing fits well enough', [
    `No video comes up to what this server was told to ask for, for ${sought}.`,
    'Describe what can be seen: who, what they do, and where. Short, plain sentences work best.',
  ], examples());
}

/** Addresses of files with the results; a picture that was searched with has none. */
function offerFiles() {
  files.hidden = Boolean(state.ask.picture);
  for (const link of files.querySelectorAll('a')) {
    link.href = api.file(state.ask, Math.min(MOST_SAVED, Math.max(state.hits.length, 1)), link.dataset.kind);
  }
}

function fail(error, again, first, tries) {
  const headings = {
    offline: 'No answer from the server', too_often: 'A little too fast', busy: 'The server is busy',
    too_long: 'The sentence is too long', bad_filter: 'The filter is not understood',
    no_picture: 'The picture cannot be read', too_large: 'The picture is too large',
  };
  if (first) {
    list.replaceChildren();
    more.hidden = true;
  }
  const button = make('button', { type: 'button', class: 'again', click: () => again(0) }, 'Try again');
  const may = !['too_long', 'too_large', 'no_picture', 'refused', 'bad_number', 'bad_filter'].includes(error.code);
  const lines = [error.message];
  if (error.wait != null && tries < TRIES) {
    lines[0] = `Too many searches at once. This one will be tried again by itself (${tries + 1} of ${TRIES}).`;
    state.retry = setTimeout(() => again(tries + 1), Math.min(error.wait, LONGEST) * 1000 + 200);
  } else if (error.wait != null) {
    lines[0] = `Too many searches at once, also after ${TRIES} more tries. Wait a little, and then try again.`;
  }
  say('');
  tell(headings[error.code] ?? 'The search failed', lines, may ? button : null, 'alert');
}

// Words on the page.

function say(text) {
  status.textContent = text;
  files.hidden = true;
  if (!text) weigh({ hits: [] });
}

/** What the server says of the sentence itself. */
function remark(notes) {
  said.replaceChildren(...notes.map((text) => make('li', {}, text)));
  said.hidden = !notes.length;
}

/** Says that nothing stands out, where the server finds so; the nearest are shown all the same. */
function weigh({ nothing: isNothing, hits }) {
  weak.hidden = !isNothing || !hits.length;
  weak.textContent = weak.hidden ? ''
    : `Nothing here stands out for “${state.ask.q}”. These are the nearest, and may well be something else.`;
  list.classList.toggle('results-weak', !weak.hidden);
}

function tell(heading, lines = [], rest = null, role = null) {
  notice.hidden = heading === null;
  notice.replaceChildren();
  notice.classList.toggle('notice-error', role === 'alert');
  if (role) notice.setAttribute('role', role);
  else notice.removeAttribute('role');
  if (heading === null) return;
  const parts = [heading && make('h1', {}, heading), ...lines.map((line) => make('p', {}, line)), rest];
  notice.append(...parts.filter(Boolean));
}

function examples() {
  const sentences = state.info?.examples ?? [];
  if (!sentences.length) return null;
  return make('div', { class: 'examples' }, make('p', { class: 'examples-head' }, 'For instance'),
    make('ul', {}, ...sentences.map((sentence) => make('li', {}, make('a', {
      href: `?${toAddress({ ...NOTHING, q: sentence })}`,
      click: (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        go({ ...NOTHING, q: sentence, where: state.ask.where });
      },
    }, sentence)))));
}

function emptyIndex() {
  say('');
  tell('This index has no videos yet', ['Add some; they can be found here as they come:'],
    make('pre', {}, 'dlkd add FOLDER --index=DIR'));
}

function welcome() {
  document.body.classList.add('idle');
  state.hits = [];
  list.replaceChildren();
  more.hidden = true;
  say('');
  if (state.info?.videos === 0) return emptyIndex();
  tell('', [], examples());
}

function footer() {
  const { videos, seconds, keys = [] } = state.info;
  at('keys').textContent = keys.length ? `by ${keys.join(', ')}` : '';
  const much = seconds ? `, ${lasting(seconds)} of film` : '';
  foot.replaceChildren(
    make('span', {}, `${count(videos, 'video')}${much}`),
    make('span', { class: 'keys' }, make('kbd', {}, '/'), ' search ', make('kbd', {}, '↑'), make('kbd', {}, '↓'),
      ' results ', make('kbd', {}, 'Enter'), ' play ', make('kbd', {}, 'Esc'), ' back'));
}

// The address.

function address(more = {}) {
  const text = toAddress(state.ask, more);
  return text ? `?${text}` : './';
}

function title() {
  document.title = state.ask.q ? `${state.ask.q} – Find the moment` : 'Find the moment';
}

/** Pictures that were searched with, for the way back to them. */
const pictures = [];

/** Shows what is found for what is asked for, or the welcome; `typed` is left as it is where the page has only now come. */
async function go(ask, push = true, typed = false) {
  await state.leaving;
  state.asked?.abort();
  clearTimeout(state.retry);
  if (ask.q || !typed) input.value = ask.q;
  lengthNote();
  remark([]);
  state.ask = ask;
  if (ask.picture && !pictures.includes(ask.picture)) pictures.push(ask.picture);
  parts.show(ask);
  if (push) history.pushState({ picture: pictures.indexOf(ask.picture) }, '', address());
  title();
  if (isEmpty(ask)) return welcome();
  document.body.classList.remove('idle');
  return search(ask);
}

/** More like a second of a result. */
function like(hit, seconds) {
  const found = moment(hit, seconds);
  if (!found) return;
  state.titles.set(hit.video_id, hit.title);
  screen.close();
  go({ ...NOTHING, where: state.ask.where, like: found });
}

const parts = new Parts({
  chips: at('parts'), adders: document.querySelectorAll('.adder[aria-controls]'), without: at('without'), where: at('where'),
  facets: at('facets'), choose: at('choose'), file: at('file'),
}, {
  ask: () => state.ask,
  onAsk: (ask, refused = '') => {
    if (refused) remark([refused]);
    else go({ ...ask, q: words(input.value) });
  },
  title: (name) => state.titles.get(name) ?? name,
});

/** Brings the page to what the address says; a video in it is played. */
async function arrive(event = null) {
  const parameters = new URLSearchParams(location.search);
  const ask = { ...fromAddress(location.search), picture: pictures[history.state?.picture] ?? null };
  if (!same(ask, state.ask) || !state.hits.length) await go(ask, false, event === null);
  const number = state.hits.findIndex((hit) => hit.video_id === parameters.get('v'));
  if (number < 0) return screen.close();
  const seconds = Number.parseFloat(parameters.get('t'));
  const { moments } = state.hits[number];
  const chosen = moments.findIndex((one) => Math.abs(one.start - seconds) < 0.06);
  return play(number, Math.max(0, chosen), chosen < 0 && Number.isFinite(seconds) ? seconds : null, false);
}

// The index.

const live = new Live(at('live'), {
  onInfo: (info) => {
    state.info = info;
    footer();
    if (state.arrived && isEmpty(state.ask)) welcome();
  },
  onAgain: () => go(state.ask, false),
});

// Playing.

const screen = new Player(dialog, {
  onClose: () => {
    const place = state.shown;
    state.shown = -1;
    if (new URLSearchParams(location.search).has('v')) {
      if (history.state?.opened) leave();
      else history.replaceState(null, '', address({}));
    }
    list.children[place]?.querySelector('.still')?.focus();
  },
  onStep: (by) => {
    const next = state.shown + by;
    if (next >= 0 && next < state.hits.length) play(next, 0, null, false);
  },
  onMoment: (number) => mark(number, null),
  onLike: (seconds) => like(state.hits[state.shown], seconds),
});

/** Goes back to the address of the results, which takes the browser a moment; nothing is put on top of it before. */
function leave() {
  state.leaving = new Promise((resolve) => { window.addEventListener('popstate', resolve, { once: true }); });
  state.leaving.then(() => { state.leaving = null; });
  history.back();
}

function mark(number, seconds) {
  const hit = state.hits[state.shown];
  const time = seconds ?? hit.moments[number].start;
  history.replaceState(history.state, '', address({ v: hit.video_id, t: time.toFixed(1) }));
}

async function play(place, number, seconds, push = true) {
  await state.leaving;
  const hit = state.hits[place];
  if (push && state.shown < 0) history.pushState({ ...history.state, opened: true }, '', location.href);
  state.shown = place;
  mark(number, seconds);
  screen.open(hit, state.range, number, seconds, { first: place === 0, last: place === state.hits.length - 1 });
}

// Keys and events.

function lengthNote() {
  const most = state.info?.most_characters ?? 300;
  const { length } = input.value;
  note.hidden = length <= most * 0.8;
  note.textContent = `${length} of ${most} characters`;
  note.classList.toggle('query-note-over', length > most);
}

function moveFocus(event) {
  if (dialog.open || event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.('.extras input')) return;
  const typing = event.target === input;
  if (event.key === '/' && !typing) {
    event.preventDefault();
    input.focus();
    input.select();
    return;
  }
  if (event.key === 'Escape') {
    if (typing && input.value && !state.hits.length) return;
    event.preventDefault();
    if (!typing) input.focus();
    else input.blur();
    return;
  }
  const row = event.target.closest?.('.result');
  if (row && (event.key === 'ArrowLeft' || event.key === 'ArrowRight')) {
    const targets = [row.querySelector('.still'), ...row.querySelectorAll('.said-play, .moment, .like')];
    const next = targets[targets.indexOf(event.target) + (event.key === 'ArrowRight' ? 1 : -1)];
    if (next) {
      event.preventDefault();
      next.focus();
    }
    return;
  }
  if (event.key !== 'ArrowDown' && event.key !== 'ArrowUp') return;
  if (!row && !typing && event.target !== more && event.target !== list) return;
  const stills = [...list.querySelectorAll('.result:not(.skeleton) .still'), ...(more.hidden ? [] : [more])];
  const here = event.target === more ? stills.length - 1 : stills.indexOf(row?.querySelector('.still'));
  const next = here + (event.key === 'ArrowDown' ? 1 : -1);
  if (typing && event.key === 'ArrowUp') return;
  event.preventDefault();
  (next < 0 ? input : stills[Math.min(next, stills.length - 1)])?.focus();
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  if (TOUCH.matches) input.blur(); // Puts the keyboard on the screen away.
  go(parts.typed({ ...state.ask, q: words(input.value) }));
});
input.addEventListener('input', lengthNote);
more.addEventListener('click', () => search(state.ask, { offset: state.hits.length }));
document.addEventListener('keydown', moveFocus);
window.addEventListener('popstate', (event) => state.leaving ?? arrive(event));
document.querySelector('.mark').addEventListener('click', (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go(NOTHING);
  input.focus();
});

if (isEmpty(fromAddress(location.search)) && !TOUCH.matches) input.focus();
await live.look();
state.arrived = true;
if (!state.asked) await arrive(); // Unless somebody was faster.
