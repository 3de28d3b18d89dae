//! Rules against results of another implementation, ByzFL 0.0.11.

use serde_json::Value;
use skein_kernels::{mean, order};

fn numbers(value: &Value) -> Vec<f32> {
    let values = value.as_array().expect("a list of numbers").iter();
    values.map(|number| number.as_f64().expect("a number") as f32).collect()
}

#[test]
fn rules_agree_with_another_implementation() {
    let vectors: Value = serde_json::from_str(include_str!("aggregators.json")).expect("the vectors are JSON");
    let cases = vectors["cases"].as_array().expect("cases");
    assert!(!cases.is_empty());
    for case in cases {
        let rows: Vec<Vec<f32>> = case["x"].as_array().expect("rows").iter().map(numbers).collect();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let faults = case["f"].as_u64().expect("a number of faults") as usize;
        let check = |rule: &str, run: &dyn Fn(&mut [f32])| {
            let expected = numbers(&case["out"][rule]);
            let mut actual = vec![0.0; expected.len()];
            run(&mut actual);
            let close = |(a, e): (&f32, &f32)| (a - e).abs() <= 1e-5 * e.abs().max(1.0);
            assert!(actual.iter().zip(&expected).all(close), "{rule} of {}: {actual:?} {expected:?}", case["name"]);
        };
        check("Average", &|out| mean::mean(&rows, out).expect("valid rows"));
        check("Median", &|out| order::median(&rows, out).expect("valid rows"));
        check("TrMean", &|out| order::trimmed_mean(&rows, faults, out).expect("enough rows"));
    }
}
