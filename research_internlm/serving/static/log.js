/** The conversation on the screen. What a model writes is shown as text, whatever it contains. */

import { errorText, text } from "./texts.js";

const log = document.getElementById("log");
const shown = new Map(); // answer -> what update() changes

function make(tag, className, content = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = content;
  return element;
}

function button(name, action) {
  const element = make("button", name, text(name));
  element.type = "button";
  element.addEventListener("click", action);
  return element;
}

/** Draws all turns; `onStop(answer)` and `onRetry()` are what their buttons do. */
export function draw(turns, { onStop, onRetry }) {
  shown.clear();
  log.replaceChildren(...turns.map((turn) => drawTurn(turn, onStop)));
  if (!turns.length) log.append(make("p", "hint", text("start")));
  const last = turns.at(-1);
  if (last && last.answers.every((answer) => answer.state !== "running")) {
    log.lastElementChild.append(button("retry", onRetry));
  }
  log.scrollTop = log.scrollHeight;
}

function drawTurn(turn, onStop) {
  const section = make("section", "turn");
  const question = make("div", "question");
  question.append(make("span", "unseen", `${text("you")}: `), turn.question);
  question.dir = "auto";
  const answers = make("div", "answers");
  answers.append(...turn.answers.map((answer) => drawAnswer(answer, onStop)));
  section.append(question, answers);
  return section;
}

function drawAnswer(answer, onStop) {
  const article = make("article", "answer");
  const head = make("header", "");
  const parts = {
    article,
    stop: button("stop", () => onStop(answer)),
    text: document.createTextNode(""),
    note: make("p", "note"),
    stats: make("p", "stats"),
  };
  parts.stop.setAttribute("aria-label", `${text("stop")}: ${answer.model}`);
  head.append(make("h3", "", answer.model), parts.stop);
  const body = make("div", "text");
  body.dir = "auto";
  body.append(parts.text);
  article.append(head, body, parts.note, parts.stats);
  shown.set(answer, parts);
  update(answer);
  return article;
}

/** Shows what has been added to an answer. */
export function update(answer) {
  const parts = shown.get(answer);
  if (!parts) return; // the conversation was cleared
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const isRunning = answer.state === "running";
  parts.text.appendData(answer.text.slice(parts.text.length));
  parts.article.setAttribute("aria-busy", isRunning); // read out when it is complete
  parts.article.classList.toggle("failed", answer.state === "failed");
  parts.stop.hidden = !isRunning;
  parts.note.textContent = note(answer);
  parts.stats.textContent = stats(answer);
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

/** An answer as a screen reader says it. */
export const spoken = (answer) => `${answer.model}: ${answer.text} ${note(answer)}`;

function note(answer) {
  const notes = [];
  if (answer.forgotten) notes.push(text("forgotten", { count: answer.forgotten }));
  if (answer.state === "running" && !answer.text) notes.push(`${text("waiting")} …`);
  if (answer.state === "stopped") notes.push(text("stopped"));
  if (answer.state === "failed") notes.push(text("failed", { message: errorText(answer.error) }));
  if (answer.state === "done" && !answer.text) notes.push(text("empty"));
  if (answer.state === "done" && answer.finish === "length") {
    const isFull = answer.usage?.total_tokens >= answer.room;
    notes.push(text(isFull ? "full" : "length", answer));
  }
  return notes.join(" ");
}

/** Tokens and speed; until the server has counted them, pieces of the answer stand for its tokens. */
function stats(answer) {
  if (!answer.first) return "";
  const tokens = answer.usage?.completion_tokens ?? answer.pieces;
  const speed = (tokens - 1) / (answer.seconds - answer.first);
  return text(answer.usage ? "stats" : "partStats", {
    prompt: answer.usage?.prompt_tokens,
    tokens,
    first: answer.first.toFixed(2),
    speed: Number.isFinite(speed) ? speed.toFixed(speed < 100 ? 1 : 0) : "–",
  });
}
