//! The engine on the zoo's models: the same bytes whatever happens around a row, and every row accounted for.

mod fixture;
mod loading;
mod rows;
mod sameness;
