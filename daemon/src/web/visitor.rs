//! The visitor of a page, as the access layer knows them.

/// The visitor of a page; the layer adds it to each request.
#[derive(Debug, Clone, Default)]
pub struct Visitor {
    /// The CSRF token of a logged-in visitor, sent as `?csrf=` in a form's action.
    pub csrf: Option<String>,
}
