/** The page: connects the panel, the conversation and the server. */

import { hasKey, listModels, useKey } from "./api.js";
import { newAnswer, write } from "./answering.js";
import * as conversation from "./conversation.js";
import * as log from "./log.js";
import * as settings from "./settings.js";
import { currentLanguage, errorText, text, useLanguage } from "./texts.js";

const SAVE_EVERY = 1000; // milliseconds, while an answer is written
const element = (id) => document.getElementById(id);
const question = element("question");
const running = new Map(); // answer -> what stops it
const stored = conversation.restore();
let turns = stored?.turns ?? [];
let savedAt = 0;

function save() {
  savedAt = performance.now();
  const isKept = conversation.store({ ...settings.read(), language: currentLanguage() }, turns);
  element("stored").hidden = !isKept;
  element("not-stored").hidden = isKept;
}

const say = (message) => { element("status").textContent = message; };

function show() {
  log.draw(turns, { onStop: stop, onRetry: retry });
  const [shown, hidden] = running.size ? ["stop", "send"] : ["send", "stop"];
  element(shown).hidden = false;
  if (document.activeElement === element(hidden)) element(shown).focus(); // or the keyboard loses its place
  element(hidden).hidden = true;
}

/** Asks every chosen model; the answers of one turn are written at the same time. */
async function answerTurn(turn) {
  const before = turns.slice(0, turns.indexOf(turn));
  const asked = settings.read();
  turn.answers = settings.chosen().map(newAnswer);
  const all = turn.answers.map((answer, column) => {
    const stopper = new AbortController();
    running.set(answer, stopper);
    return write(answer, {
      before, question: turn.question, column, settings: asked, signal: stopper.signal,
      onChange: () => changed(answer),
    });
  });
  say(text("answering"));
  show();
  save();
  await Promise.all(all);
}

function changed(answer) {
  log.update(answer);
  if (answer.state === "running") {
    if (performance.now() - savedAt > SAVE_EVERY) save();
    return;
  }
  running.delete(answer);
  if (!turns.some((turn) => turn.answers.includes(answer))) return; // cleared meanwhile
  save();
  if (!running.size) {
    say(turns.at(-1).answers.map(log.spoken).join("\n"));
    show();
  }
  if (answer.error?.code === "invalid_api_key") askForKey();
}

const canAsk = () => !running.size && settings.chosen()[0] && settings.isValid();

function ask() {
  if (!question.value.trim() || !canAsk()) return;
  const turn = { question: question.value, answers: [] };
  question.value = "";
  turns.push(turn);
  answerTurn(turn);
}

function retry() {
  if (!canAsk()) return;
  answerTurn(turns.at(-1));
  element("stop").focus(); // the button that was pressed is gone
}

function stop(answer) {
  running.get(answer)?.abort();
  element("stop").focus(); // as above
}

function stopAll() {
  for (const stopper of running.values()) stopper.abort();
}

function clear() {
  if (!confirm(text("clearSure"))) return;
  turns = [];
  stopAll();
  running.clear();
  conversation.forget();
  show();
  question.focus();
}

function saveAsFile() {
  const items = conversation.exported(turns, settings.read().system);
  const url = URL.createObjectURL(new Blob([JSON.stringify(items, null, 1)], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = `conversation-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.json`;
  link.click();
  URL.revokeObjectURL(url);
}

function askForKey() {
  element("key").hidden = false;
  element("wrong-key").hidden = !hasKey();
  element("key").elements.key.focus();
}

async function connect() {
  element("problem").hidden = true;
  try {
    settings.offer(await listModels(), stored?.settings);
    element("key").hidden = true;
    question.focus();
  } catch (error) {
    if (error.code === "invalid_api_key") return askForKey();
    element("problem").hidden = false;
    element("problem").firstElementChild.textContent = errorText(error);
  }
}

element("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
question.addEventListener("keydown", (event) => {
  // Enter that ends the choice of a Chinese character is not for us; Safari tells it by its key code only.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  ask();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing) stopAll();
});
element("stop").addEventListener("click", stopAll);
element("clear").addEventListener("click", clear);
element("export").addEventListener("click", saveAsFile);
element("settings").addEventListener("change", save);
element("language").addEventListener("click", () => {
  useLanguage(currentLanguage() === "zh" ? "en" : "zh");
  show();
  save();
});
element("key").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(element("key").elements.key.value);
  element("key").reset();
  connect();
});
element("problem").querySelector("button").addEventListener("click", connect);
addEventListener("beforeunload", stopAll); // or the answers would say that the connection failed
addEventListener("pagehide", () => {
  if (running.size) save();
});

useLanguage(stored?.settings.language);
settings.restore(stored?.settings);
show();
connect();
