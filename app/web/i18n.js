// The language of the page: texts of the markup by their data-i18n attributes, all others through t().

import en from "./locales/en.js";
import zh from "./locales/zh.js";

const TEXTS = { en, zh };
const NAMES = { en: "English", zh: "中文" };
const LOCALES = { en: "en", zh: "zh-CN" };
const STORAGE_KEY = "limner.language";

let language = localStorage.getItem(STORAGE_KEY) ?? (navigator.language.startsWith("zh") ? "zh" : "en");
if (!TEXTS[language]) language = "en";

/** Returns the text of that name with its {blanks} filled in. */
export function t(name, blanks = {}) {
  const text = TEXTS[language][name] ?? en[name] ?? name;
  return text.replace(/\{([a-z]+)\}/g, (_, blank) => String(blanks[blank] ?? ""));
}

/** Returns the name of a reply form, for example `address`, in words; unknown ones as they are. */
export const formName = (form) => (en[`form_${form}`] ? t(`form_${form}`) : form);

export const number = (value, options) => new Intl.NumberFormat(LOCALES[language], options).format(value);

export const time = (at, timeStyle = "short") =>
  new Intl.DateTimeFormat(LOCALES[language], { dateStyle: "short", timeStyle }).format(at);

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  const [value, unit] = count < 1e6 ? [count / 1000, "kB"] : [count / 1e6, "MB"];
  return `${number(value, { maximumFractionDigits: value < 100 ? 1 : 0 })} ${unit}`;
}

export const seconds = (ms) => `${number(ms / 1000, { minimumFractionDigits: 2, maximumFractionDigits: 2 })} s`;

/** `currency`: the three letters of a currency, or any other word, which is written behind the number. */
export function money(amount, currency) {
  const digits = { minimumFractionDigits: 2, maximumFractionDigits: 9 };
  if (/^[A-Z]{3}$/.test(currency)) return number(amount, { style: "currency", currency, ...digits });
  return `${number(amount, digits)} ${currency}`.trim();
}

/** Writes all texts of the markup. The event `language` makes the other scripts write theirs. */
function write() {
  document.documentElement.lang = LOCALES[language];
  for (const element of document.querySelectorAll("[data-i18n]")) element.textContent = t(element.dataset.i18n);
  for (const element of document.querySelectorAll("[data-i18n-placeholder]"))
    element.placeholder = t(element.dataset.i18nPlaceholder);
  for (const element of document.querySelectorAll("[data-i18n-label]"))
    element.setAttribute("aria-label", t(element.dataset.i18nLabel));
  document.dispatchEvent(new Event("language"));
}

/** Writes the page in its language, and makes `button` switch to the other one. */
export function setUpLanguage(button) {
  const other = () => (language === "en" ? "zh" : "en");
  const name = () => {
    button.textContent = NAMES[other()];
    button.lang = LOCALES[other()];
  };
  button.addEventListener("click", () => {
    language = other();
    localStorage.setItem(STORAGE_KEY, language);
    name();
    write();
  });
  name();
  write();
}
