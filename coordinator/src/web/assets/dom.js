// Elements made in one line. Text is only ever set as text: nothing that comes from data is read as HTML.

export const at = (id) => document.getElementById(id);

export const say = (id, text) => {
  const node = at(id);
  if (node.textContent !== text) node.textContent = text;
};

/** `make("td", { className: "n" }, "7")`; children are nodes or text. */
export function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** An SVG element with attributes. */
export function shape(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

export const empty = (text) => make("p", { className: "empty" }, text);

/** Entries of [class of the dot, name, value]. */
export function legend(id, entries) {
  at(id).replaceChildren(...entries.map(([kind, name, value]) =>
    make("span", {}, make("span", { className: `dot ${kind}` }), `${name} `, make("b", {}, value))));
}
