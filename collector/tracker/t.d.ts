/** How the snippet is set up. In the page each is an attribute of the script tag: `data-key`, `data-consent`, … */
export interface Options {
  /** The store's write key. */
  key: string
  /** Where events are posted to. The script tag takes `v1/collect` beside the script. */
  endpoint?: string
  /**
   * `full` (default): visitor, session and unsent events are kept in this site's localStorage. `cookieless`: nothing is
   * stored on the device, and the collector derives a visitor that lasts a day. `none`: nothing leaves the page before
   * `millrace('consent', …)`.
   */
  consent?: Consent
  /** `ignore`: Do Not Track and Global Privacy Control do not start the page with consent `none`. */
  dnt?: string
  /** `page`: pages that differ in the part after `#` alone are different pages. */
  hash?: string
  /** What the full build should leave out: any of `clicks`, `links`, `forms`, `vitals`, `errors`. */
  off?: string
}

export type Consent = 'none' | 'cookieless' | 'full'

/** A product; the names of GA4 (`item_id`, `item_name`, …) are read too. */
export interface Item {
  product_id?: string
  variant_id?: string
  name?: string
  brand?: string
  category?: string
  price?: number | string
  quantity?: number
  discount?: number | string
  [more: string]: unknown
}

/** Fields of an event; everything else belongs into `properties`. */
export interface Fields {
  category?: string
  action?: string
  label?: string
  /** Of an order or a refund: its total. */
  value?: number | string
  /** ISO 4217. */
  currency?: string
  tax?: number | string
  shipping?: number | string
  discount?: number | string
  /** Required for `purchase` and `refund`; `transaction_id` is read too. */
  order_id?: string
  transaction_id?: string
  refund_id?: string
  coupon?: string
  items?: Item[]
  /** Whether a person did it; one that is false does not end a bounce. */
  interactive?: boolean
  /** A `Date` is sent as its milliseconds. */
  properties?: Record<string, string | number | boolean | Date | null | undefined>
  [more: string]: unknown
}

/** Names with a meaning for the rollups; any other name is an event too. */
export type Name =
  | 'view_item' | 'view_item_list' | 'select_item' | 'add_to_cart' | 'remove_from_cart' | 'view_cart'
  | 'begin_checkout' | 'add_shipping_info' | 'add_payment_info' | 'purchase' | 'refund' | 'search' | 'login' | 'sign_up'

export interface Millrace {
  /** An event: `millrace('event', 'add_to_cart', { items: [...] })`. */
  (command: 'event', name: Name | (string & {}), fields?: Fields): void
  /** A page was shown: the one before is left. `fields` may say its `url` and `title`. */
  (command: 'page', fields?: { url?: string; title?: string; properties?: Fields['properties'] }): void
  /** Who this is, until `reset`. Another user than before is somebody else, as after `reset`; nothing (`''`, `null`) is ignored. */
  (command: 'identify', user_id: string): void
  /** From here on it is somebody else, in every tab: a new visitor, a new session, no user. The view of the page that is shown ends. */
  (command: 'reset'): void
  /** What the visitor agreed to. What was kept is forgotten where it is less than `full`. */
  (command: 'consent', consent: Consent): void
  /** Short for `millrace('event', name, fields)`. */
  (name: Name, fields?: Fields): void
}

/** Starts the full snippet in this page. */
export function start(options: Options): Millrace

/** Starts the core: page views, events, engagement and the queue. */
export function startCore(options: Options): Millrace

declare global {
  interface Window {
    millrace?: Millrace & { q?: ArrayLike<unknown>[] }
  }
}
