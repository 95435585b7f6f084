// Small helpers for elements. Text is only ever set as text, so names from files cannot become markup.

/** An element: properties, "on..." listeners and attributes, then children (strings become text). */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.startsWith("aria")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Tell a screen reader. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

/** Show a message for a few seconds. */
export function toast(text, kind = "info") {
  const note = el("div", { className: `toast ${kind}`, role: kind === "error" ? "alert" : "status" }, text);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), kind === "error" ? 9000 : 3500);
}

/** Seconds as 1:05 or 0:04.2. */
export function clock(seconds, precise = false) {
  const minutes = Math.floor(seconds / 60);
  const rest = seconds - 60 * minutes;
  return `${minutes}:${(precise ? rest.toFixed(1) : String(Math.floor(rest))).padStart(precise ? 4 : 2, "0")}`;
}

const TYPED = "select, textarea, dialog, input:not([type=radio], [type=checkbox], [type=range], [type=file])";
const PRESSED = "button, summary, input"; // by Space and Enter
const MOVED = "[role=tab], [role=slider], input[type=radio], input[type=range]"; // by arrows

/** Whether a key press belongs to the control that has the focus: each key where text is typed, else those it uses. */
export function isForControl({ key, target }) {
  const within = (controls) => Boolean(target.closest?.(controls));
  if (within(TYPED)) return true;
  return key === " " || key === "Enter" ? within(PRESSED) : key.startsWith("Arrow") && within(MOVED);
}

let count = 0;
/** A new id, to tie labels to controls. */
export function newId(stem) {
  count += 1;
  return `${stem}-${count}`;
}

/** A labelled control. */
export function field(label, control, hint) {
  control.id ||= newId("field");
  return el("div", { className: "field" }, el("label", { htmlFor: control.id }, label), control,
    hint ? el("small", {}, hint) : null);
}

/** A slider that shows its value; `.value` is a number. */
export function slider(label, { min, max, step, value = 0, unit = "", oninput }) {
  const output = el("output", {});
  const input = el("input", { type: "range", min, max, step, value: String(value) });
  const show = () => {
    const number = Number(input.value);
    output.textContent = `${number > 0 && min < 0 ? "+" : ""}${number}${unit}`;
  };
  input.addEventListener("input", () => { show(); oninput?.(); });
  input.addEventListener("dblclick", () => {
    input.value = String(value);
    for (const kind of ["input", "change"]) input.dispatchEvent(new Event(kind, { bubbles: true }));
  });
  show();
  const row = field(label, input);
  row.classList.add("slider");
  row.append(output);
  return { element: row, input, get value() { return Number(input.value); },
    set value(number) { input.value = String(number); show(); } };
}

/** Offer a blob as a download. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
