/** Keys that belong to an input method (IME), which writes Japanese, Chinese, Korean …, and not to the page. */

/** Whether a key press is part of composing a character: Enter and Escape then choose or leave a suggestion. */
export function composing(event: KeyboardEvent): boolean {
  // Safari sends the last one after the composition has ended, with the key code that stands for "an input method's".
  return event.isComposing || event.keyCode === 229;
}
