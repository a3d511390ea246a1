/** Links that leave, files, forms, and events that the page's markup names. */
import type { Fields } from '../t'
import { text } from './clicks'
import { isOff, push } from './core'
import { call, closest, of } from './element'
import { cut, on } from './page'

const FILE = /\.(pdf|xlsx?|docx?|pptx?|txt|csv|epub|exe|msi|dmg|pkg|apk|iso|zip|rar|7z|gz|mp[34]|mov|avi|wav)$/i
const ITEM = /^(item_|product_|variant_|price|quantity|brand)/
const FIELD = /^(value|currency|category|action|label|tax|shipping|coupon|(order|transaction|refund)_id)$/

export const links = () => {
  const attribute = (element: Element, name: string): string => call(element, 'getAttribute', name) || ''
  const send = (name: string, fields: Fields) => push({ ...fields, type: 'event', name })

  /** `data-mr-event="add_to_cart" data-mr-item-id="mug" data-mr-price="12.50" data-mr-colour="blue"` */
  const named = (element: Element | null | undefined) => {
    if (!element) return
    const fields: Fields = { __proto__: null as never }
    for (const { name, value } of of(element, 'attributes')) {
      const key = name.slice(8).replace(/-/g, '_')
      if (!/^data-mr-(?!event$)/.test(name)) continue
      if (ITEM.test(key)) ((fields.items ||= [{}])[0]![key] = value)
      else if (FIELD.test(key)) fields[key] = value
      else (fields.properties ||= {})[key] = value
    }
    send(attribute(element, 'data-mr-event'), fields)
  }

  const clicked = (event: MouseEvent) => {
    const element = event.target as Element
    const marked = closest(element, '[data-mr-event]:not(form)')
    if (event.type == 'click') named(marked)
    const link = closest<HTMLAnchorElement>(element, 'a[href]')
    if (!link || isOff('links') || event.button > 1 || !/^http/.test(link.protocol)) return
    const properties = { link_url: cut(link.href), link_domain: link.hostname, link_text: text(link) }
    const file = FILE.exec(link.pathname)
    if (file) {
      send('file_download', { properties: { ...properties, file_name: link.pathname, file_extension: file[1] } })
    } else if (link.host != location.host) {
      send('click', { properties: { ...properties, outbound: true } })
    }
  }
  on('click', clicked)
  on('auxclick', clicked)

  on('submit', (event) => {
    const form = event.target as HTMLFormElement
    if (call(form, 'matches', '[data-mr-event]')) named(form)
    if (isOff('forms')) return
    const form_destination = cut(new URL(attribute(form, 'action'), location.href).href)
    send('form_submit', { properties: { form_id: attribute(form, 'id'), form_name: attribute(form, 'name'), form_destination } })
  })
}
