/** Page views, events, engagement, who it is and what they agreed to. */
import type { Consent, Fields, Options } from '../t'
import { json, parse } from './json'
import { cut, guard, on, own, uuid, w } from './page'
import { add, flush, keep, open, prefix, storage } from './queue'

/** Sessions as the aggregator derives them: a gap this long ends one, and so does this length. */
const SESSION_GAP_MS = 18e5
const SESSION_LENGTH_MAX_MS = 864e5
/** Events kept until consent is given. */
const HELD_MAX = 50
/** A page's title is set shortly after its address changed. */
const TITLE_MS = 50
/** Of a visitor and a session, as they are made here. */
const IDS_LENGTH = 72
export type Event = Fields & { type: string; page_view_id?: string; url?: string; timestamp?: number }

let options: Options
let running = 0
let consent: Consent
/** What happened until then is not sent any more when this has grown: somebody took back their consent, or left without it. */
export let era = 0
const held: Event[] = []
/** The user, as the page has named them since the storage was written. */
let named = ''
/** The view of the page that is shown, as it was or will be sent. */
export let page: Event
/** 1: it is counted; 2: whoever is here now has not opened it. */
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
  if (consent == 'full' && to != 'full') {
    close()
    era++
  }
  consent = to
  keep(to == 'full')
  if (to != 'none') held.splice(0).map(push)
}

/** What stands in the storage about the visitor: it can be anything. */
const recall = () => parse(storage?.[prefix])

/** Who does it, in which session; where nothing can be kept, nobody but the user. */
const stamp = () => {
  const now = Date.now()
  try {
    let { visitor_id, session_id, sequence, user_id: user, began, last } = recall()
    if (visitor_id?.length + session_id?.length != IDS_LENGTH) {
      visitor_id = uuid()
      began = user = 0
    }
    if (!(now - last < SESSION_GAP_MS && now - began < SESSION_LENGTH_MAX_MS)) {
      session_id = uuid()
      began = now
      sequence = 0
    }
    const who = { visitor_id, session_id, sequence: (sequence | 0) + 1, user_id: cut(named || user) }
    storage![prefix] = json({ ...who, began, last: now, isOwn: page.visitor_id == visitor_id })
    named = ''
    return who
  } catch {}
  return { visitor_id: '', session_id: '', user_id: named }
}

/** Fills in what an event does not say itself: when and where it happens, and who does it. That stays for its next report. */
export const fill = (event: Event) => {
  Object.assign(event, {
    timestamp: Date.now(),
    url: cut(location.href),
    page_view_id: page.page_view_id,
    viewport_width: innerWidth,
    viewport_height: innerHeight,
    ...(consent != 'none' && stamp()),
    ...event,
  })
}

/** Keeps an event. */
export const push = (event: Event) => {
  fill(event)
  if (consent == 'none') {
    if (!held[HELD_MAX - 1]) held.push(event)
  } else add(event)
}

/** Counts the page view when the page has its title. */
const show = () => {
  if (!isShown) {
    isShown = 1
    page.title ||= cut(own('title'))
    push(page)
  }
}

const scrolled = () => {
  bottom = Math.max(bottom, scrollY + innerHeight)
}

/** The page view once more, with what came of it; its time, person, session and number stay those of the first report. */
const leave = () => {
  if (!visible || isShown > 1) return
  show()
  scrolled()
  engaged += Date.now() - visible
  push({
    ...page,
    duration_ms: engaged,
    scroll_depth: Math.min(100, (100 * bottom) / own('documentElement').scrollHeight),
  })
}

/** No more is told of this view. */
const close = () => {
  leave()
  isShown = 2
  page = { ...page, page_view_id: uuid() }
}

/** Somebody else is here. The view that is open ends as that of who opened it; what nobody has agreed to is forgotten. */
const reset = (isOpen: number) => {
  if (isOpen) close()
  if (held.splice(0)[0]) era++
  named = ''
  delete storage?.[prefix]
}

const view = (fields?: object) => {
  leave()
  let referrer = cut(page ? page.url! : own('referrer'))
  const site = location.origin + '/'
  // A page of this site whose visitor may have been somebody else.
  if (!referrer.indexOf(site) && !recall().isOwn) referrer = site
  isShown = engaged = bottom = 0
  const now = Date.now()
  visible = own('hidden') ? 0 : now
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

const identify = (user: any) => {
  user = cut(user)
  const before = recall().user_id || named
  // Nobody has no name.
  if (!user) return
  if (before && before != user) reset(isShown)
  named = user
  // For the other tabs, before anything happens there.
  stamp()
}

const run = (command: unknown, a?: any, b?: any) => {
  if (command == 'identify') identify(a)
  else if (command == 'consent') agree(a)
  else if (command == 'page') view(a)
  else if (command == 'reset') reset(running)
  else push(command == 'event' ? { ...b, type: 'event', name: a } : { ...a, type: 'event', name: command })
}

/** Starts in this page; what was called before is done then. */
export const begin = (given: Options, waiting: ArrayLike<unknown>[]) => {
  // Not what the page has hung on all objects.
  options = { __proto__: null, ...given } as never
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
    on('popstate', moved)
    on<PageTransitionEvent>('pageshow', (event) => event.persisted && view())
    moved()
    part?.()
    on('visibilitychange', () => (own('hidden') ? hide() : (visible = Date.now())))
    on('pagehide', hide)
    on('scroll', scrolled)
    running = 1
    waiting.map((call) => guard(run)(...(call as unknown as [unknown])))
    flush()
  }

  if (own('prerendering')) on('prerenderingchange', start)
  else guard(start)()

  return guard((...call: unknown[]) => {
    if (running) run(...(call as [unknown]))
    else waiting.push(call)
  })
}

/** The script tag in the page: its attributes are the options. Markup cannot take its place, nor that of what was called before. */
export const tag = guard(() => {
  const script = own('currentScript') as HTMLScriptElement
  const before = typeof w.millrace == 'function' && w.millrace.q
  w.millrace = begin({ endpoint: new URL('v1/collect', script.src), ...script.dataset } as never, before || [])
})
