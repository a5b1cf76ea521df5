import { count } from "../app/format.js";
import { html, useLayoutEffect, useRef, useState } from "../app/html.js";
import { useObserved } from "../app/observed.js";

const NEAR = 40; // pixels from the end that count as being there

function Entry({ entry }) {
  return html`
    <div class="entry ${entry.role}">
      ${entry.name && html`<span class="role">${entry.name}</span>`}
      <p>${entry.pieces.map((piece) => html`<span key=${piece.id}>${piece.text}</span>`)}</p>
    </div>
  `;
}

/** The running text. It follows the end unless one has scrolled up. */
export function Stream({ client }) {
  const transcript = useObserved(client.transcript);
  const box = useRef(null);
  const following = useRef(true);
  const [away, setAway] = useState(false);

  const toEnd = () => {
    box.current.scrollTop = box.current.scrollHeight;
  };
  useLayoutEffect(() => {
    if (following.current) toEnd();
  });
  const scrolled = () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current;
    following.current = scrollHeight - scrollTop - clientHeight < NEAR;
    setAway(!following.current);
  };

  return html`
    <div class="stream-frame">
      <div
        class="stream"
        ref=${box}
        tabindex="0"
        role="log"
        aria-live="off"
        aria-label="The stream, in and out"
        onScroll=${scrolled}
      >
        ${
          transcript.dropped > 0 &&
          html`<p class="dropped">${count(transcript.dropped)} older characters are no longer kept on this page.</p>`
        }
        ${
          transcript.entries.length === 0 &&
          html`<p class="dropped">Nothing has come in or out since this page looked. Push something below.</p>`
        }
        ${transcript.entries.map((entry) => html`<${Entry} key=${entry.id} entry=${entry} />`)}
        ${
          transcript.draft &&
          html`<div class="entry draft">
          <span class="role">draft</span>
          <p>${transcript.draft}</p>
        </div>`
        }
        ${client.working && html`<p class="working"><span>working</span></p>`}
      </div>
      ${away && html`<button class="small to-end" onClick=${toEnd}>To the newest</button>`}
    </div>
  `;
}
