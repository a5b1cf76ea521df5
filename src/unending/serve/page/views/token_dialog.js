import { html, useState } from "../app/html.js";
import { useObserved } from "../app/observed.js";
import { token } from "../app/token.js";
import { FormDialog } from "./dialog.js";

/** Asks for the bearer token when the server wants one. */
export function TokenDialog() {
  useObserved(token);
  const [value, setValue] = useState("");
  const [put, setPut] = useState(false);
  if (!token.wanted) return null;
  if (put)
    return html`<p class="token-later"><button onClick=${() => setPut(false)}>Enter a token</button></p>`;
  const act = () => {
    if (!value.trim()) throw new Error("A token is needed.");
    token.set(value.trim());
    setValue("");
  };
  const later = () => token.wanted && setPut(true);
  return html`
    <${FormDialog} title="This server asks for a token" verb="Go on" act=${act} close=${later}>
      <p>
        ${token.refused ? "The token was not accepted. " : ""}It is kept in this tab only, and forgotten when the tab
        is closed.
      </p>
      <label for="token">Token</label>
      <input
        id="token"
        type="password"
        autocomplete="off"
        required
        value=${value}
        onInput=${(event) => setValue(event.target.value)}
      />
    <//>
  `;
}
