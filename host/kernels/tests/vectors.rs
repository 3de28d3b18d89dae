//! Rules against results of another implementation, ByzFL 0.0.11.

use serde_json::Value;
use skein_kernels::multi_krum::MULTI_KRUM;
use skein_kernels::rule::Rule;
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
        // ByzFL counts one neighbour more than the paper.
        let neighbours = (rows.len() - faults - 1).to_string();
        let krum = Rule::new(&MULTI_KRUM, faults as u32).with("neighbours", &neighbours).expect("it fits");
        check("MultiKrum", &|out| krum.apply(&rows, out).expect("enough rows"));
        let krum = krum.with("selected", "1").expect("it fits");
        check("Krum", &|out| krum.apply(&rows, out).expect("enough rows"));
        check("TrMean", &|out| order::trimmed_mean(&rows, faults, out).expect("enough rows"));
    }
}

/// The number of neighbours decides which row is selected: the paper's selects another row than ByzFL's.
#[test]
fn krum_has_the_neighbours_of_the_paper() {
    let vectors: Value = serde_json::from_str(include_str!("aggregators.json")).expect("the vectors are JSON");
    let case = &vectors["krum_variants"];
    let rows: Vec<Vec<f32>> = case["x"].as_array().expect("rows").iter().map(numbers).collect();
    let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    let selected = |rule: Rule| {
        let mut out = [0.0; 2];
        rule.with("selected", "1").expect("it fits").apply(&rows, &mut out).expect("enough rows");
        rows.iter().position(|row| *row == out).map(|row| row as u64)
    };
    let krum = Rule::new(&MULTI_KRUM, 2);
    assert_eq!(selected(krum.clone()), case["selected_index"]["paper n-f-2 sq"].as_u64());
    assert_eq!(
        selected(krum.with("neighbours", "6").expect("it fits")),
        case["selected_index"]["byzfl n-f-1 sq"].as_u64()
    );
}
