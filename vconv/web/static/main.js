// Puts the views together: tabs, theme, shortcuts.

import { ask } from "./api.js";
import { BatchView } from "./batch.js";
import { ConvertView } from "./convert.js";
import { el, isForControl } from "./dom.js";
import { themeChanged } from "./drawing.js";
import { refreshVoices } from "./library.js";
import { stopOnce } from "./sound.js";
import { VoicesView } from "./voices.js";

const THEMES = ["auto", "light", "dark"];
const SIGNS = { auto: "◐", light: "☀", dark: "☾" };
const THEME_KEY = "vconv-theme";

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem(THEME_KEY, theme);
  const button = document.getElementById("theme");
  button.textContent = SIGNS[theme];
  button.setAttribute("aria-label", `Theme: ${theme}`);
  button.title = `Theme: ${theme}`;
}

function showTabs(views) {
  const tabs = document.getElementById("tabs");
  const place = document.getElementById("views");
  const buttons = views.map((view, index) => {
    const panel = el("div", { id: `panel-${index}`, role: "tabpanel", "aria-labelledby": `tab-${index}`, hidden: true },
      view.element);
    place.append(panel);
    return el("button", { type: "button", id: `tab-${index}`, role: "tab", "aria-controls": `panel-${index}`,
      onclick: () => choose(index) }, view.title);
  });
  tabs.append(...buttons);
  tabs.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    choose((current + step + views.length) % views.length);
    buttons[current].focus();
  });
  let current = null;
  function choose(index) {
    if (index === current) return; // what runs there goes on
    views[current]?.hide();
    stopOnce();
    current = index;
    buttons.forEach((button, other) => {
      button.setAttribute("aria-selected", String(other === index));
      button.tabIndex = other === index ? 0 : -1;
      document.getElementById(`panel-${other}`).hidden = other !== index;
    });
  }
  choose(0);
  return () => views[current];
}

function listenForKeys(view) {
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") {
      const { convert, run } = view();
      (convert ?? run)?.call(view());
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || isForControl(event)) return;
    if (event.key === "?") document.getElementById("shortcuts").showModal();
    else if (view().shortcut?.(event.key)) event.preventDefault();
  });
}

async function begin() {
  setTheme(THEMES.includes(localStorage.getItem(THEME_KEY)) ? localStorage.getItem(THEME_KEY) : "auto");
  document.getElementById("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme;
    setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
    themeChanged();
  });
  document.getElementById("help").addEventListener("click", () => document.getElementById("shortcuts").showModal());
  for (const kind of ["dragover", "drop"]) {
    addEventListener(kind, (event) => event.preventDefault()); // a file dropped beside a card must not replace the page
  }
  try {
    const server = await ask("GET", "state");
    const views = [new ConvertView(server), new BatchView(server), new VoicesView(server)];
    if (server.live) views.push(new (await import("./live.js")).LiveView(server));
    listenForKeys(showTabs(views));
    await refreshVoices();
  } catch (error) {
    document.getElementById("views").append(el("section", { className: "card", role: "alert" },
      el("h2", {}, "This page cannot be opened"), el("p", {}, error.message)));
  }
}

begin();
