// The page in the reader's language: texts of the markup by their data-i18n attributes, others through t().

import en from "./en.js";
import zh from "./zh.js";

const TEXTS = { en, zh };
const NAMES = { en: "English", zh: "中文" };
const LOCALES = { en: "en", zh: "zh-CN" };
const PLACE = "limner.language";

let language = localStorage.getItem(PLACE) ?? (navigator.language.startsWith("zh") ? "zh" : "en");
if (!TEXTS[language]) language = "en";

/** The text of that name, its {blanks} filled. */
export function t(name, blanks = {}) {
  const text = TEXTS[language][name] ?? en[name] ?? name;
  return text.replace(/\{([a-z]+)\}/g, (_, blank) => String(blanks[blank] ?? ""));
}

export const number = (value, options) => new Intl.NumberFormat(LOCALES[language], options).format(value);

export const time = (at, timeStyle = "short") =>
  new Intl.DateTimeFormat(LOCALES[language], { dateStyle: "short", timeStyle }).format(at);

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  const [value, unit] = count < 1e6 ? [count / 1000, "kB"] : [count / 1e6, "MB"];
  return `${number(value, { maximumFractionDigits: value < 100 ? 1 : 0 })} ${unit}`;
}

export const seconds = (ms) => `${number(ms / 1000, { minimumFractionDigits: 2, maximumFractionDigits: 2 })} s`;

/** Writes all texts of the markup, and tells those who show texts of their own by the event `language`. */
function write() {
  document.documentElement.lang = LOCALES[language];
  for (const element of document.querySelectorAll("[data-i18n]")) element.textContent = t(element.dataset.i18n);
  for (const element of document.querySelectorAll("[data-i18n-placeholder]"))
    element.placeholder = t(element.dataset.i18nPlaceholder);
  for (const element of document.querySelectorAll("[data-i18n-label]"))
    element.setAttribute("aria-label", t(element.dataset.i18nLabel));
  document.dispatchEvent(new Event("language"));
}

/** `button` shows the other language, and changes to it. */
export function speak(button) {
  const other = () => (language === "en" ? "zh" : "en");
  const name = () => {
    button.textContent = NAMES[other()];
    button.lang = LOCALES[other()];
  };
  button.addEventListener("click", () => {
    language = other();
    localStorage.setItem(PLACE, language);
    name();
    write();
  });
  name();
  write();
}
