import htm from "../vendor/htm.js";
import { Fragment, h, render } from "../vendor/preact.js";

export { Fragment, render };
export { useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/preact-hooks.js";

/** Tagged template for elements. What is put into it becomes text nodes and properties, never markup. */
export const html = htm.bind(h);
