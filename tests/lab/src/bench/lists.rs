//! The lists above the table: what the API server was asked, and the bare client by concurrency.

use super::report::quantile;
use super::runs::Size;

/// What the API server was asked, and where the time went.
pub fn requests(size: &Size) -> String {
    let Some(herd) = &size.herd else {
        return String::new();
    };
    let mut text = format!(
        "Requests to the API server while all {} were rotated, as it counted them:\n",
        size.tokens
    );
    for (kind, number) in &herd.cost.requests.0 {
        let (kind, each) = (kind.to_string(), *number as f64 / herd.rotations as f64);
        text += &format!("  {kind:<45} {number:>7} {each:>7.2} per rotation\n");
    }
    let elapsed = herd.elapsed.as_secs_f64();
    let (server, operator) = (herd.cost.cpu_seconds / elapsed, herd.operator_cpu / elapsed);
    text + &format!(
        "Vendor calls: {} rotations, {} lists, {} others. Processors in use: API server {server:.2}, operator {operator:.2}.\n",
        herd.vendor.rotations,
        herd.vendor.lists,
        herd.vendor.all - herd.vendor.rotations - herd.vendor.lists,
    )
}

/// What the API server was asked while nothing was due.
pub fn idle(size: &Size) -> String {
    let Some(idle) = &size.idle else {
        return String::new();
    };
    let mut text = format!(
        "Requests to the API server in {} s with nothing due, the control plane's own among them:\n",
        idle.watched.as_secs()
    );
    for (kind, number) in &idle.requests.0 {
        text += &format!("  {:<45} {number:>7}\n", kind.to_string());
    }
    text
}

/// The bare client by concurrency.
pub fn floor(size: &Size) -> String {
    if size.floor.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "The bare client with {} tokens, by rotations at a time; the fastest is in the table:\n",
        size.tokens
    );
    for run in &size.floor {
        let tokens = size.tokens as f64;
        text += &format!(
            "  {:>4}: {:>4.0} per second, {:>4.1} ms of the API server each, answer → stored p99 {} ms\n",
            run.concurrency,
            tokens / run.elapsed.as_secs_f64(),
            1000.0 * run.cost.cpu_seconds / tokens,
            quantile(&run.stored, 0.99).as_millis()
        );
    }
    text
}
