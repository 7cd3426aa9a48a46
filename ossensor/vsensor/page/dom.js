// Elements from values. Text is only ever set as text: names come from sensors, reasons from people, and neither is
// markup. The page's Content-Security-Policy (trusted types) refuses it if this is ever forgotten.

export const byId = (id) => document.getElementById(id);

/** An element with these attributes and children; a child is an element or a text. */
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Sets a text only when it is another: a screen reader's place and a person's selection stay where they are. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** As `say`, with a class that tells the same by its colour. */
export function sayAs(element, [kind, text]) {
  say(element, text);
  element.classList.remove("good", "warn", "bad");
  if (kind) element.classList.add(kind);
}

/** Makes the rows of `body` those of `wanted`, a Map of key to value, in its order; rows of keys that stay, stay. */
export function keep(body, rows, wanted, create) {
  for (const [key, row] of rows) {
    if (!wanted.has(key)) {
      row.remove();
      rows.delete(key);
    }
  }
  let place = null;
  for (const key of [...wanted.keys()].reverse()) {
    if (!rows.has(key)) rows.set(key, create(key));
    const row = rows.get(key);
    row.place(body, place);
    place = row.first;
  }
}

/** Tells who cannot see the change, when they have time for it. */
export function announce(text) {
  say(byId("said"), text);
}
