//! A condition on rows, in the Common Expression Language (<https://cel.dev>).

use std::collections::HashMap;

use cel::{Context, ExecutionError, Program, Value};

use super::line::NAMES;
use crate::outcome::Failure;

/// A condition that is written as it should be.
pub struct Condition {
    text: String,
    program: Program,
}

impl Condition {
    /// Reads a condition.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let program = Program::compile(text)
            .map_err(|error| Failure::bad_input(format!("--where `{text}` is no condition in CEL: {error}")))?;
        Ok(Condition { text: text.into(), program })
    }

    /// Whether it holds for a row's facts, an object with all [`NAMES`]. A fact that is null makes a comparison with it
    /// neither true nor false: then the condition doesn't hold.
    pub fn holds(&self, facts: &serde_json::Value) -> Result<bool, Failure> {
        let mut context = Context::default();
        for (name, fact) in facts.as_object().into_iter().flatten() {
            context.add_variable_from_value(name.as_str(), value(fact));
        }
        match self.program.execute(&context) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) => Err(self.unfit("it should be true or false for a row")),
            Err(ExecutionError::UndeclaredReference(name)) => {
                let known = NAMES.map(|name| format!("`{name}`")).join(", ");
                Err(self.unfit(&format!("there is no `{name}`; a row has {known}")))
            }
            Err(_) => Ok(false),
        }
    }

    fn unfit(&self, why: &str) -> Failure {
        Failure::bad_input(format!("--where `{}`: {why}", self.text))
    }
}

/// JSON in CEL's types. Whole numbers are signed, as those that are written in a condition are.
fn value(fact: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match fact {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => items.iter().map(value).collect::<Vec<_>>().into(),
        Json::Object(fields) => {
            fields.iter().map(|(name, fact)| (name.clone(), value(fact))).collect::<HashMap<_, _>>().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::facts;
    use super::*;
    use crate::commands::capfilt::inspect::line::tests::{failed, kept};

    fn holds(condition: &str) -> [bool; 2] {
        let condition = Condition::parse(condition).unwrap();
        [kept(), failed()].map(|row| condition.holds(&facts(&row)).unwrap())
    }

    #[test]
    fn conditions_pick_rows() {
        assert_eq!(holds("score < 0.2"), [false, false]);
        assert_eq!(holds("score > 0.2"), [true, false], "a row without a score has none that is larger");
        assert_eq!(holds(r#"status == "quarantined" && reason.startsWith("trunc")"#), [false, true]);
        assert_eq!(holds(r#"source == "synthetic" && caption.contains("dog") && row % 2 == 1"#), [true, false]);
        assert_eq!(holds(r#"candidates.exists(c, c.source == "web" && c.score < 0.2)"#), [true, false]);
        assert_eq!(holds(r#"key == "k" || stage == "decode""#), [true, true]);
        assert_eq!(holds("web_score < score"), [true, false]);
    }

    #[test]
    fn what_is_no_condition_is_said() {
        let said = |text: &str| match Condition::parse(text).and_then(|condition| condition.holds(&facts(&kept()))) {
            Err(failure) => failure.to_string(),
            Ok(holds) => panic!("{text} is {holds}"),
        };
        assert!(said("score <").contains("no condition in CEL"));
        assert!(said("scor < 0.2").contains("there is no `scor`; a row has `dataset`"));
        assert!(said("score").contains("true or false"));
    }
}
