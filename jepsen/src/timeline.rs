//! The run on one page: when what was broken, and how the cluster did meanwhile.
use crate::{
    check::{Check, Verdict},
    history::{Fault, History, Op, Outcome, SECOND},
    report::Meta,
};

/// Pixels for a second.
const SCALE: f64 = 8.0;
const CHART_HEIGHT: f64 = 120.0;
const LANE: f64 = 16.0;
/// Faults come one after the other, and their names are longer than they are: they take turns.
const LANES: usize = 7;

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn colour(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::True => "#2a7d3f",
        Verdict::False => "#b3261e",
        Verdict::Unknown => "#9a6700",
    }
}

/// The page.
pub fn page(meta: &Meta, checks: &[Check], history: &History) -> String {
    let mut out = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Coracle under faults</title><style>\
         body{font:14px system-ui,sans-serif;margin:24px;max-width:1200px}table{border-collapse:collapse}\
         td,th{text-align:left;padding:2px 12px 2px 0;vertical-align:top}td:nth-child(-n+3){white-space:nowrap}.scroll{overflow-x:auto;border:1px solid #ccc}\
         code{background:#f3f3f3}</style>",
    );
    let Meta { verdict, seed, nodes, network, seconds, program, .. } = meta;
    let shown = format!("{verdict:?}").to_lowercase();
    out.push_str(&format!("<h1>Verdict: <span style=\"color:{}\">{shown}</span></h1><p>{nodes} nodes of <code>{}</code>, {}, seed {seed}, \
         {seconds:.0} s, {} operations, {} deliveries.</p>",
        colour(*verdict),
        escape(program),
        escape(network),
        history.ops.len(),
        history.deliveries.len()
    ));
    out.push_str(
        "<h2>Timeline</h2><p>Operations in each second by outcome, and the faults below. Hover for what was done.</p>",
    );
    out.push_str(&chart(history));
    out.push_str("<h2>Checks</h2><table><tr><th>check<th>verdict<th>looked at<th>notes");
    for check in checks {
        let notes: Vec<String> = check.notes.iter().chain(&check.shown).map(|it| escape(it)).collect();
        out.push_str(&format!(
            "<tr><td>{}<td style=\"color:{}\">{:?}<td>{}<td>{}",
            check.name,
            colour(check.verdict),
            check.verdict,
            check.looked_at,
            notes.join("<br>")
        ));
    }
    out.push_str("</table><h2>Faults</h2><table><tr><th>from<th>to<th>kind<th>what<th>evidence");
    for fault in &history.faults {
        out.push_str(&format!(
            "<tr><td>{:.1} s<td>{:.1} s<td>{}<td>{}<td>{}",
            seconds_of(fault.from),
            seconds_of(fault.to),
            escape(&fault.kind),
            escape(&fault.detail),
            escape(&told(fault))
        ));
    }
    out.push_str("</table></html>\n");
    out
}

fn told(fault: &Fault) -> String {
    match (&fault.skipped, &fault.evidence) {
        (Some(why), _) => format!("skipped: {why}"),
        (None, Some(evidence)) => evidence.clone(),
        (None, None) => "did not bite".into(),
    }
}

fn seconds_of(nanos: u64) -> f64 {
    nanos as f64 / SECOND as f64
}

const OUTCOMES: [(Outcome, &str, &str); 4] = [
    (Outcome::Ok, "#7fb88f", "ok"),
    (Outcome::Conflict, "#8fa9d8", "conflict"),
    (Outcome::Fail, "#e0b070", "certainly not"),
    (Outcome::Info, "#d9766f", "unknown"),
];

fn chart(history: &History) -> String {
    let end = history.ops.iter().map(|op| op.invoked).chain(history.faults.iter().map(|it| it.to)).max().unwrap_or(0);
    let seconds = (end / SECOND) as usize + 1;
    let mut counts = vec![[0usize; OUTCOMES.len()]; seconds];
    for Op { invoked, outcome, .. } in &history.ops {
        let kind = OUTCOMES.iter().position(|(it, _, _)| it == outcome).unwrap_or(0);
        counts[(*invoked / SECOND) as usize][kind] += 1;
    }
    // At the end everything is read at once: that second is cut off, so that the others are not flat.
    let mut sums: Vec<usize> = counts.iter().map(|it| it.iter().sum()).collect();
    sums.sort_unstable();
    let most = sums.get(sums.len() * 98 / 100).copied().unwrap_or(1).max(1) as f64;
    let faults: Vec<&Fault> = history.faults.iter().filter(|it| it.skipped.is_none()).collect();
    let (width, height) = (seconds as f64 * SCALE, CHART_HEIGHT + 20.0 + LANES as f64 * LANE);
    let mut out = format!("<div class=\"scroll\"><svg width=\"{width}\" height=\"{height}\">");
    for (second, counts) in counts.iter().enumerate() {
        let mut top = CHART_HEIGHT;
        for (count, (_, colour, name)) in counts.iter().zip(OUTCOMES) {
            let tall = (*count as f64 / most * CHART_HEIGHT).min(top);
            top -= tall;
            let x = second as f64 * SCALE;
            out.push_str(&format!(
                "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" fill=\"{colour}\">\
                 <title>{second} s: {count} {name}</title></rect>",
                SCALE - 0.5
            ));
        }
        if second.is_multiple_of(10) {
            let (x, y) = (second as f64 * SCALE, CHART_HEIGHT + 14.0);
            out.push_str(&format!("<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"10\">{second}</text>"));
        }
    }
    for (place, fault) in faults.into_iter().enumerate() {
        let x = seconds_of(fault.from) * SCALE;
        let wide = ((seconds_of(fault.to) - seconds_of(fault.from)) * SCALE).max(2.0);
        let y = CHART_HEIGHT + 20.0 + (place % LANES) as f64 * LANE;
        let title = escape(&format!("{}: {}: {}", fault.kind, fault.detail, told(fault)));
        let colour = if fault.evidence.is_some() { "#c9b8e8" } else { "#b3261e" };
        out.push_str(&format!("<g><title>{title}</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"13\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"10\">{}</text></g>",
            x + 2.0,
            y + 10.0,
            escape(&fault.kind)
        ));
    }
    out.push_str("</svg></div><p>");
    for (_, colour, name) in OUTCOMES {
        out.push_str(&format!("<span style=\"background:{colour}\">&nbsp;&nbsp;</span> {name} &nbsp; "));
    }
    out + "</p>"
}
