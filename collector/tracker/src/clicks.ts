/** Clicks for heatmaps, and whether anything came of them. */
import { type Event, era, fill, isOff, page, push } from './core'
import { closest, of } from './element'
import { cut, guard, hidden, on, own, w } from './page'

/** A page that has not moved for so long after a click has not answered it. */
const DEAD_MS = 1e3
/** What answers a click by itself, or in a way that leaves no trace in the document. */
const ANSWERS = 'a[href],input,select,textarea,label,summary,video,audio,[contenteditable]'

/** A short path that finds the element: down from the nearest id, four levels at most. */
export const selector = (element: Element) => {
  const path: string[] = []
  for (let at: Element | null = element, above; at && path.length < 4; at = above) {
    const name = of(at, 'localName')
    const id = of(at, 'id')
    above = of(at, 'parentElement')
    if (id) {
      path.unshift('#' + CSS.escape(id))
      break
    }
    const alike = above ? [...of(above, 'children')].filter((other) => of(other, 'localName') == name) : []
    path.unshift(alike.length > 1 ? name + `:nth-of-type(${alike.indexOf(at) + 1})` : name)
  }
  return cut(path.join('>'), 500)
}

/** What an element is called; never what somebody typed. */
export const text = (element: Element) => cut(closest(element, 'a,button,label,h1,h2,h3')?.textContent?.trim(), 80)

export const clicks = () => {
  if (isOff('clicks')) return
  let open: (() => void)[] = []
  hidden(() => open.map((f) => f()))

  on<MouseEvent>('click', (event) => {
    const element = event.target as Element
    // A key's or a program's click has no place.
    if (!event.isTrusted || !event.detail) return
    const all = own('documentElement')
    const click: Event = {
      type: 'click',
      timestamp: Date.now(),
      url: page.url!,
      page_view_id: page.page_view_id!,
      x: event.pageX,
      y: event.pageY,
      page_width: all.scrollWidth,
      page_height: all.scrollHeight,
      selector: selector(element),
      text: text(element),
    }
    // Now, not when it is decided: somebody else may be here by then.
    fill(click)
    const then = era
    let isAnswered: unknown = closest(element, ANSWERS)
    const answer = () => {
      isAnswered = 1
    }
    const observer = new MutationObserver(answer)
    const done = guard(() => {
      if (!open.includes(done)) return
      open = open.filter((f) => f != done)
      if (observer.takeRecords()[0]) answer()
      observer.disconnect()
      w.removeEventListener('scroll', answer, true)
      if (then != era) return
      if (!(isAnswered || event.defaultPrevented || own('hidden') || '' + getSelection())) click.properties = { dead: true }
      push(click)
    })
    open.push(done)
    if (isAnswered) return done()
    observer.observe(document, { attributes: true, characterData: true, childList: true, subtree: true })
    w.addEventListener('scroll', answer, { capture: true, passive: true })
    w.setTimeout(done, DEAD_MS)
  })
}
