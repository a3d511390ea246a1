/** What the browser says of an element: a form's fields can put themselves over that, `<input name=id>` over the form's own. */

export const of = (element: Element, name: string) => Reflect.get(Element.prototype, name, element)

export const call = (element: Element, method: string, argument: string) => of(element, method).call(element, argument)

/** The nearest element, itself or around it, that a selector finds. */
export const closest = <E extends Element>(element: Element, selector: string): E | null => call(element, 'closest', selector)
