// Numbers as people read them.

export const count = (number) => Number(number).toLocaleString("en");

export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

export function span(seconds) {
  if (!isFinite(seconds)) return "–";
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} d`;
}

/** Three digits that count, with k or M. */
export function brief(value) {
  if (!isFinite(value)) return "–";
  if (Math.abs(value) >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (Math.abs(value) >= 1e3) return `${+(value / 1e3).toPrecision(3)}k`;
  return String(+value.toPrecision(3));
}

const PHASES = { capfilt: "CapFilt", stage1: "stage 1", stage2: "stage 2" };

export const phaseName = (phase) => PHASES[phase] ?? phase;

export const isOver = (phase) => ["done", "failed", "cancelled"].includes(phase);
