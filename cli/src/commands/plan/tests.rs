use super::*;

#[test]
fn a_throughput_is_a_number_above_0() {
    assert_eq!(positive("2.5"), Ok(2.5));
    for wrong in ["0", "-1", "NaN", "inf", "fast"] {
        assert!(positive(wrong).is_err(), "{wrong}");
    }
}
