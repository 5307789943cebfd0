//! Who looks: what the pages must know of the reader to offer what they may do.

/// The reader of a page; put into each request by the guard.
#[derive(Debug, Clone, Default)]
pub struct Visitor {
    /// Of somebody logged in: what their forms must carry, as `?csrf=` in the form's action.
    pub csrf: Option<String>,
}
