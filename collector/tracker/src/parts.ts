/** What the full build adds: clicks, links, forms, attributes, vitals, errors. */
import { clicks } from './clicks'
import { errors, vitals } from './health'
import { links } from './links'
import { guard } from './page'

/** What a browser cannot do leaves the others alone. */
export const parts = () => [links, clicks, vitals, errors].map((part) => guard(part)())
