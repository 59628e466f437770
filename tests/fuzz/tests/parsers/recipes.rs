//! Recipes: YAML as people write it, JSON as it travels to workers.

use quern_fuzz::Target;
use quern_recipes::Recipe;

/// A recipe that was taken comes back whole from its JSON form.
fn travels(recipe: &Recipe) {
    let again = Recipe::from_json(&recipe.to_json()).expect("what is sound stays so");
    assert_eq!(again.hash(), recipe.hash());
    assert_eq!(again, *recipe);
}

#[test]
fn recipes_in_yaml() {
    let target = Target::new("recipes").seeds_of("recipes", ".yaml").seeds_of("tests/k8s/recipes", ".yaml");
    target.cases(3000).run(|bytes| match Recipe::parse("run.yaml", &String::from_utf8_lossy(bytes)) {
        Ok(recipe) => travels(&recipe),
        Err(error) => assert!(!error.to_string().is_empty()),
    });
}

#[test]
fn recipes_in_json() {
    Target::new("recipes_json").cases(3000).run(|bytes| {
        if let Ok(recipe) = Recipe::from_json(&String::from_utf8_lossy(bytes)) {
            travels(&recipe);
        }
    });
}
