//! The Prometheus text format, as far as the API server and the operator use it.

use std::collections::BTreeMap;

/// One line: a series and its value.
#[derive(Debug, PartialEq)]
pub struct Sample<'a> {
    /// Labels by name, escapes as they are written.
    pub labels: BTreeMap<&'a str, &'a str>,
    /// Its value.
    pub value: f64,
}

impl<'a> Sample<'a> {
    /// A label; empty when it is absent.
    pub fn label(&self, name: &str) -> &'a str {
        self.labels.get(name).copied().unwrap_or_default()
    }
}

/// Every series of exactly this name.
pub fn samples<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = Sample<'a>> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.split_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let labels = labels.trim_end_matches('"').split("\",");
        Some(Sample {
            labels: labels.filter_map(|pair| pair.split_once("=\"")).collect(),
            value: value.split(' ').next()?.parse().ok()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# TYPE requests_total counter
requests_total{code="200",resource=""} 3
requests_total{code="200",resource="secrets",} 1.5e+03 1395066363000
requests_totals{code="200"} 7
cpu_seconds 0.25
"#;

    #[test]
    fn a_series_has_its_labels_and_value_and_no_other_name_is_taken_for_it() {
        let found: Vec<_> = samples(TEXT, "requests_total").collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].label("resource"), found[0].value), ("", 3.0));
        assert_eq!(found[0].label("absent"), "");
        assert_eq!(found[1].label("resource"), "secrets");
        assert_eq!(found[1].label("code"), "200");
        assert_eq!(found[1].value, 1500.0);
        let cpu: Vec<_> = samples(TEXT, "cpu_seconds").map(|s| s.value).collect();
        assert_eq!(cpu, [0.25]);
    }
}
