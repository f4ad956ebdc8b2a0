/**
 * The conversation: what is asked, what is exported, and what the browser keeps.
 *
 * A turn is {question, answers}: one answer for each column of models that were asked. An answer is
 *   {model, room, text, state, pieces, forgotten, [error], [finish], [usage], [characters], [first], [seconds]}
 * with `state` running, done, stopped or failed, `room` the model's context in tokens, `usage` the server's
 * counts, `characters` those which the usage counts the tokens of, and times in seconds.
 */

// Behind a proxy, pages of several servers lie under one address. The number is that of the form above.
const PLACE = `internlm-chat-1:${location.pathname}`;

/** What an earlier visit left: {settings, turns}; null where there is nothing that can be read. */
export function restore() {
  try {
    const { settings, turns } = JSON.parse(localStorage.getItem(PLACE));
    for (const answer of turns.flatMap((turn) => turn.answers)) {
      if (answer.state === "running") answer.state = "stopped"; // it ended with the page
    }
    return { settings, turns };
  } catch {
    return null;
  }
}

/** Keeps settings and conversation; false where the browser does not allow it or has no room. */
export function store(settings, turns) {
  try {
    localStorage.setItem(PLACE, JSON.stringify({ settings, turns }));
    return true;
  } catch {
    return false;
  }
}

/** Removes everything that `store` has kept. */
export function forget() {
  try {
    localStorage.removeItem(PLACE);
  } catch {
    // nothing was kept either
  }
}

/** The answer that a column continues from: its own, or the only one where there was no comparison then. */
const answerOf = (turn, column) => turn.answers[column] ?? turn.answers[0];

/** Questions with their answers, as pairs of messages; those without an answer are none. */
export function exchanges(turns, column) {
  return turns.filter((turn) => answerOf(turn, column)?.text).map((turn) => [
    { role: "user", content: turn.question },
    { role: "assistant", content: answerOf(turn, column).text },
  ]);
}

/** The system prompt as messages. */
export const systemMessages = (system) => (system.trim() ? [{ role: "system", content: system }] : []);

/** Tokens per character of a column's last answer and its prompt; null before there is one. */
export function tokensPerCharacter(turns, column) {
  const counted = turns.map((turn) => answerOf(turn, column)).filter((answer) => answer?.usage).at(-1);
  return counted ? counted.usage.total_tokens / Math.max(1, counted.characters) : null;
}

/** The conversation of each column in the form of OpenAI's messages, which the toolkit's converter reads. */
export function exported(turns, system) {
  const columns = Math.max(0, ...turns.map((turn) => turn.answers.length));
  return Array.from({ length: columns }, (_, column) => {
    const models = turns.map((turn) => answerOf(turn, column)).filter((answer) => answer?.text);
    return {
      model: [...new Set(models.map((answer) => answer.model))].join(", "),
      messages: [...systemMessages(system), ...exchanges(turns, column).flat()],
    };
  }).filter((item) => item.model);
}
