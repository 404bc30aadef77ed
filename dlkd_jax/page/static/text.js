// Words and numbers as the page writes them, and a short way to make elements.

/** Seconds as m:ss, or h:mm:ss; with tenths where asked for. */
export function clock(seconds, tenths = false) {
  const scale = tenths ? 10 : 1;
  const total = Math.max(0, Math.floor(seconds * scale + 1e-6));
  const whole = Math.floor(total / scale);
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  const rest = String(whole % 60).padStart(2, '0') + (tenths ? `.${total % 10}` : '');
  return hours ? `${hours}:${String(minutes).padStart(2, '0')}:${rest}` : `${minutes}:${rest}`;
}

/** A stretch of time; tenths are shown where whole seconds would look the same. */
export function span(start, end) {
  const tenths = end - start < 2;
  return `${clock(start, tenths)}\u2009–\u2009${clock(end, tenths)}`;
}

/** A duration in words: 45 s, 3 min, 1 h 20 min. */
export function lasting(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const rest = minutes % 60;
  return `${Math.floor(minutes / 60).toLocaleString('en')} h${rest ? ` ${rest} min` : ''}`;
}

export const score = (value) => value.toFixed(3).replace('-', '\u2212');

export const count = (number, one, several = `${one}s`) =>
  `${number.toLocaleString('en')} ${number === 1 ? one : several}`;

/** An element; `properties` are attributes, or listeners where they are functions; text is never read as markup. */
export function make(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

/** An SVG element. */
export function draw(name, properties = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', name), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}
