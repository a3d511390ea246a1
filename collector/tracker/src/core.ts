/** Page views, events, engagement, who it is and what they agreed to. */
import type { Consent, Fields, Options } from '../t'
import { cut, d, guard, on, uuid, w } from './page'
import { add, flush, keep, lose, open, prefix, storage } from './queue'

/** Sessions as the aggregator derives them: a gap this long ends one, and so does this length. */
const SESSION_GAP_MS = 18e5
const SESSION_LENGTH_MAX_MS = 864e5
/** Events kept until consent is given. */
const HELD_MAX = 50
/** A page's title is set shortly after its address changed. */
const TITLE_MS = 50

export type Event = Fields & { type: string; page_view_id?: string; url?: string; timestamp?: number }

/** What is kept of a visitor: fields of events, when the session began, and its last event. */
interface Kept {
  visitor_id: string
  session_id: string
  sequence: number
  user_id?: string | undefined
  began: number
  last: number
}

let options: Options
let consent: Consent
const held: Event[] = []
let user_id: string | undefined
/** The view of the page that is shown, as it was or will be sent. */
export let page: Event
let isShown = 0
/** Its address, as far as it makes a page of its own. */
let place: string | undefined
/** Since when the page is visible; 0: it is not. */
let visible: number
let engaged: number
let bottom: number

/** What the full build adds. */
let part: (() => void) | undefined

export const extend = (more: () => void) => {
  part = more
}

/** Whether a part of the full build is left out. */
export const isOff = (part: string) => options.off?.includes(part)

const agree = (to: Consent) => {
  consent = to
  keep(to == 'full')
  if (to != 'none') held.splice(0).map(push)
}

/** Who does it, in which session; nobody where nothing can be kept. */
const stamp = (now: number) => {
  try {
    let { began, last, ...kept }: Kept = JSON.parse(storage!.getItem(prefix) || '{}')
    kept.visitor_id ||= uuid()
    if (!(now - last < SESSION_GAP_MS && now - began < SESSION_LENGTH_MAX_MS)) {
      kept.session_id = uuid()
      began = now
      kept.sequence = 0
    }
    kept.sequence++
    user_id = kept.user_id = user_id || kept.user_id
    storage!.setItem(prefix, JSON.stringify({ ...kept, began, last: now }))
    return kept
  } catch {
    lose()
    return {}
  }
}

/** Keeps an event. What it does not say itself is filled in, for its next report too. */
export const push = (event: Event) => {
  const now = Date.now()
  const fill = (more: object) => Object.assign(event, { ...more, ...event })
  fill({
    timestamp: now,
    url: cut(location.href),
    page_view_id: page?.page_view_id,
    viewport_width: innerWidth,
    viewport_height: innerHeight,
  })
  if (consent == 'none') {
    if (held.length < HELD_MAX) held.push(event)
  } else {
    fill(stamp(now))
    const event_id = uuid()
    add(event_id, { ...event, event_id, user_id })
  }
}

/** Counts the page view when the page has its title. */
const show = () => {
  if (!isShown) {
    isShown = 1
    page.title ||= cut(d.title)
    push(page)
  }
}

const scrolled = () => {
  bottom = Math.max(bottom, scrollY + innerHeight)
}

/** The page view once more, with what came of it; its time, session and number stay those of the first report. */
const leave = () => {
  if (!visible) return
  show()
  scrolled()
  engaged += Date.now() - visible
  push({
    ...page,
    duration_ms: engaged,
    scroll_depth: Math.min(100, (100 * bottom) / d.documentElement.scrollHeight),
  })
}

const view = (fields?: object) => {
  const referrer = cut(page ? page.url! : d.referrer)
  leave()
  isShown = engaged = bottom = 0
  const now = Date.now()
  visible = d.hidden ? 0 : now
  page = { type: 'page_view', page_view_id: uuid(), timestamp: now, url: cut(location.href), referrer, ...fields }
  setTimeout(guard(show), TITLE_MS)
}

const moved = () => {
  const now = location.href.replace(options.hash ? '' : /#.*/, '')
  if (place != now) {
    place = now
    view()
  }
}

const hide = () => {
  leave()
  visible = 0
  flush(3)
}

const run = (command: unknown, a?: any, b?: any) => {
  if (command == 'identify') user_id = '' + a
  else if (command == 'consent') agree(a)
  else if (command == 'page') view(a)
  else if (command == 'reset') {
    user_id = undefined
    storage?.removeItem(prefix)
  } else push(command == 'event' ? { ...b, type: 'event', name: a } : { ...a, type: 'event', name: command })
}

/** Starts in this page; what was called before is done then. */
export const begin = (given: Options, waiting: ArrayLike<unknown>[]) => {
  options = given
  let running = 0

  const start = () => {
    open(options.endpoint!, options.key)
    agree(((navigator as any).globalPrivacyControl || navigator.doNotTrack == '1') && options.dnt != 'ignore' ? 'none' : options.consent || 'full')
    for (const name of ['pushState', 'replaceState'] as const) {
      const original = history[name]
      history[name] = function (...a) {
        original.apply(this, a)
        guard(moved)()
      }
    }
    // Also of a change in the part after `#`.
    on(w, 'popstate', moved)
    on<PageTransitionEvent>(w, 'pageshow', (event) => event.persisted && view())
    moved()
    part?.()
    on(d, 'visibilitychange', () => {
      if (d.hidden) hide()
      else visible = Date.now()
    })
    on(w, 'pagehide', hide)
    on(w, 'scroll', scrolled)
    running = 1
    waiting.map((call) => guard(run)(...(call as unknown as [unknown])))
    flush()
  }

  if ((d as Document & { prerendering?: boolean }).prerendering) on(d, 'prerenderingchange', start)
  else guard(start)()

  return guard((...call: unknown[]) => {
    if (running) run(...(call as [unknown]))
    else waiting.push(call)
  })
}

/** The script tag in the page: its attributes are the options. */
export const tag = guard(() => {
  const script = d.currentScript as HTMLScriptElement
  w.millrace = begin({ endpoint: new URL('v1/collect', script.src), ...script.dataset } as never, w.millrace?.q || [])
})
