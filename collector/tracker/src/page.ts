/** What everything here does with the page it stands in: it never throws into it, and never holds it up. */

export const w = window as Window & typeof globalThis

/** The same function, but what goes wrong in it stays in it. */
export const guard =
  <A extends unknown[]>(f: (...a: A) => void) =>
  (...a: A): void => {
    try {
      f(...a)
    } catch {}
  }

/** What the browser says of the document. Markup can put an element of its own over that: `<img name=referrer>`. */
export const own = (name: string) => Reflect.get(Document.prototype, name, document)

/** Listens, before the page's own listeners and without a say in what happens. On the window: markup can cover the document's method. */
export const on = <E extends Event>(type: string, f: (event: E) => void) =>
  addEventListener(type, guard(f) as EventListener, { capture: true, passive: true })

/** When the page is hidden or left; called before the core's own, so that what it adds leaves with the page. */
export const hidden = (f: () => void) => {
  on('pagehide', f)
  on('visibilitychange', () => own('hidden') && f())
}

/** A text, or as much of it as the collector takes of an address; never half an emoji. */
export const cut = (text: any, length = 4096) => [...(text || '') + ''].slice(0, length).join('')

let last = 0

/** A UUIDv7; those of one page follow each other. */
export const uuid = () => {
  let random: ArrayLike<number> = []
  let i = 0
  // Where `crypto` is missing or broken, less random is better than none.
  try {
    random = crypto.getRandomValues(new Uint8Array(18))
  } catch {}
  last = Math.max(last + 1, Date.now())
  return (
    last.toString(16).padStart(12, 0 as never).replace(/.{8}/, '$&-') +
    '-7xxx-8xxx-xxxxxxxxxxxx'.replace(/x/g, () => ((random[i++] ?? Math.random() * 16) & 15).toString(16))
  )
}
