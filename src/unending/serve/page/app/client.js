import { readArray, summary } from "./chunks.js";
import { connection } from "./connection.js";
import { Inputs } from "./inputs.js";
import { Observed } from "./observed.js";
import { Received } from "./received.js";
import { Series } from "./series.js";
import { Transcript } from "./transcript.js";

const LETTING_GO = 400; // ms between two attempts to enter a session that an old connection may still hold
const ATTEMPTS = 3;
const BREAK = 2; // stream time between two outputs of text that makes the second one a new paragraph
const DRAWN_INPUT = 4_000; // characters of one pushed text that the transcript shows

const shown = (text) => (text.length > DRAWN_INPUT ? `${text.slice(0, DRAWN_INPUT)} …` : text);

/**
 * The page's end of one session: held if it is free, watched if somebody else holds it. Survives the loss of the
 * connection: it resumes with the number of the last output it has, and takes no output in twice.
 */
export class Client extends Observed {
  status = "connecting"; // or "held", "watching", "lost", "gone"
  working = false;
  finished = false;
  last = -1; // number of the last output taken in
  problem = null; // {text, action, act}: what went wrong, and what the person can do about it
  saying = ""; // for a screen reader
  transcript = new Transcript();
  series = new Series();
  graph = ""; // the newest graph that came out
  #wish; // the message that (re-)enters the session
  #attempts = 0;
  #told = false; // that it is finished
  #received = new Received((seq) => this.status === "held" && this.#send({ type: "output.ack", seq }));
  #answer = "";
  #spoken = 0; // stream time up to which text came out
  #pondered = -1; // stream time of the newest thought

  /** `seed` makes it a new session. */
  constructor(system, name, seed) {
    super();
    this.system = system;
    this.name = name;
    this.#wish = seed === undefined ? { type: "session.resume" } : { type: "session.open", seed };
    this.inputs = new Inputs((chunk, seq) => this.#send({ type: "input.push", seq, chunk, id: "push" }));
  }

  enter() {
    connection.attach(this.system, this.name, this);
  }

  leave() {
    if (this.#wish.type === "session.watch") this.#wish = { type: "session.resume" };
    this.#send({ type: "session.release" });
    connection.detach(this.system, this.name);
    this.inputs.lost();
    this.#become("connecting");
  }

  // -- what a person does

  async push(chunk) {
    if (chunk.kind === "Query") this.transcript.add("question", chunk.text);
    else
      this.transcript.append(
        chunk.kind === "Text" ? "in" : "in-data",
        shown(chunk.text ?? `${summary(chunk)}\n`),
      );
    try {
      const shed = await this.inputs.push(chunk);
      this.working = true;
      this.changed();
      if (shed) this.#note("The session is late: this input was shed.");
    } catch (reason) {
      this.#note(`Not taken in: ${reason}`);
      throw new Error(reason);
    }
  }

  interrupt() {
    this.#send({ type: "session.interrupt", id: "interrupt" });
  }

  finish() {
    this.#send({ type: "input.finish", id: "finish" });
  }

  save() {
    this.#send({ type: "session.save", id: "save" });
  }

  /** Hold the session, whoever has it now. */
  takeOver() {
    this.#wish = { type: "session.resume", take_over: true };
    this.#send({ type: "session.release", id: "over" });
  }

  resume() {
    this.#wish = { type: "session.resume" };
    this.#enter();
  }

  dismiss() {
    this.#report(null);
  }

  // -- what the connection says

  connected() {
    if (this.#wish.type !== "session.open") this.#attempts = 0;
    this.#enter();
  }

  lost() {
    if (this.#wish.type === "session.open") this.#attempts++;
    this.inputs.lost();
    this.#become("lost");
  }

  message(message, size) {
    const act = {
      "session.opened": () => this.#opened(message),
      "session.watching": () => this.#become("watching"),
      "session.taken": () => this.#taken(),
      "session.deleted": () => this.#gone("This session was deleted."),
      "session.saved": () => this.#say("Saved to the server's store."),
      "session.interrupted": () => this.#note("Interrupted."),
      "session.released": () => message.id === "over" && this.#enter(),
      "session.idle": () => this.#idle(),
      "session.finished": () => this.#finished(),
      "input.ack": () => message.id === "push" && this.inputs.acknowledged(message.seq, message.shed),
      "server.draining": () => this.#say("The server is stopping; this page goes on when it is back."),
      output: () => this.#output(message, size),
      error: () => this.#error(message),
    }[message.type];
    act?.();
  }

  #opened({ in_seq, after, finished }) {
    this.#wish = { type: "session.resume" };
    if (after > this.last) {
      this.#note(`Outputs up to number ${after} were delivered before and are not shown.`);
      this.last = after;
    }
    this.#attempts = 0;
    this.finished = finished;
    this.problem = null;
    this.#become("held");
    this.inputs.opened(in_seq);
  }

  #taken() {
    this.inputs.abandon("another client took the session over");
    this.#report({
      text: "Another client took this session over.",
      action: "Take it back",
      act: () => this.takeOver(),
    });
    this.#watch();
  }

  #output({ seq, t_start, t_end, final, chunk }, size) {
    if (seq <= this.last) return;
    if (this.last >= 0 && seq > this.last + 1)
      this.#note(`${seq - this.last - 1} outputs were not received.`);
    this.last = seq;
    this.working = true;
    this.#show(chunk, t_start, t_end, final);
    this.#received.add(seq, size);
    this.changed();
  }

  #show(chunk, start, end, final) {
    if (chunk.kind === "Text" && chunk.role === "graph") {
      this.graph = chunk.text;
    } else if (chunk.kind === "Text") {
      this.transcript.setDraft(final ? "" : chunk.text);
      if (!final) return;
      if (chunk.role && chunk.role !== "answer") this.#think(chunk, start);
      else this.#speak(chunk, start, end);
    } else if (chunk.kind === "Rows") {
      this.series.add(readArray(chunk.values), chunk.names, start, end);
    } else {
      this.transcript.restate("out-data", summary(chunk));
    }
  }

  #speak({ text, role }, start, end) {
    if (start > this.#spoken + BREAK) this.transcript.add("out", text, role);
    else this.transcript.append("out", text, role);
    this.#spoken = end;
    this.#answer = (this.#answer + text).slice(-400);
  }

  /** A thought about another stretch of the stream is another line. */
  #think({ text, role }, start) {
    if (start === this.#pondered) this.transcript.append("thought", text, role);
    else this.transcript.add("thought", text, role);
    this.#pondered = start;
  }

  #idle() {
    this.working = false;
    if (this.#answer) this.#say(this.#answer);
    this.#answer = "";
    this.changed();
  }

  #finished() {
    this.finished = true;
    this.working = false;
    if (!this.#told) this.#note("The session is finished.");
    this.#told = true;
    this.changed();
  }

  #error(error) {
    const { code, message, seq, expected, retry_after, id } = error;
    if (id === "enter") this.#notEntered(error);
    else if (id === "over")
      this.#enter(); // it was not even watched
    else if (code === "sequence" && expected !== undefined) this.inputs.expected(expected);
    else if (id === "push" && this.inputs.sent(seq)) {
      if (code === "busy" || code === "limit") this.inputs.later(retry_after ?? 1);
      else if (code !== "draining") this.inputs.refused(message);
    } else if (code === "input" && !id) this.#note(`Refused by the system: ${message}`);
    else
      this.#report(
        id ? { text: message } : { text: message, action: "Enter again", act: () => this.resume() },
      );
  }

  #notEntered({ code, message }) {
    if (code === "taken" && ++this.#attempts < ATTEMPTS) setTimeout(() => this.#enter(), LETTING_GO);
    else if (code === "taken") this.#watch();
    else if (code === "sequence") this.#behind();
    else if (code === "not_found" || code === "unknown_system") this.#gone(message);
    else if (code === "exists" && this.#attempts++)
      this.resume(); // an earlier attempt got through after all
    else if (code === "exists")
      this.#report({ text: message, action: "Resume it", act: () => this.resume() });
    else if (code !== "draining")
      this.#report({ text: message, action: "Try again", act: () => this.#enter() });
  }

  /** The server no longer has, or never had, the outputs that would come next. */
  #behind() {
    this.#note("The server's outputs do not go on where this page left off; what it still has follows.");
    this.last = -1;
    this.#enter();
  }

  // -- inside

  #enter() {
    const after = this.#wish.type === "session.resume" && this.last >= 0 ? { after: this.last } : {};
    this.#send({ ...this.#wish, ...after, id: "enter" });
  }

  #watch() {
    this.#wish = { type: "session.watch" };
    this.#enter();
  }

  #send(message) {
    return connection.send({ ...message, system: this.system, session: this.name });
  }

  #become(status) {
    this.status = status;
    this.changed();
  }

  #gone(text) {
    this.inputs.abandon(text);
    connection.detach(this.system, this.name);
    this.#report({ text });
    this.#become("gone");
  }

  #note(text) {
    this.transcript.add("note", text);
    this.#say(text);
  }

  #say(text) {
    this.saying = text;
    this.changed();
  }

  #report(problem) {
    this.problem = problem;
    this.changed();
  }
}
