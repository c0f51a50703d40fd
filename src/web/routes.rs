//! Routes and what they say of themselves. A handler that bears `#[utoipa::path]` is served where its description says.
//! The descriptions are gathered in tests alone, which hold `docs/openapi.json` against them: the program carries that
//! file instead of all that it is made of.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter};
use utoipa::__dev::SchemaReferences;
use utoipa::openapi::HttpMethod;
#[cfg(test)]
use utoipa::openapi::{Paths, RefOr, Schema};

use super::Web;

/// The handlers of one path: `handlers!(meters::one, edits::meter)`.
macro_rules! handlers {
    ($($($part:ident)::+),+ $(,)?) => {{
        let handlers = $crate::web::routes::Handlers::default();
        $(let handlers = handlers.with::<$crate::web::routes::described!([] $($part)::+), _, _>($($part)::+);)+
        handlers
    }};
}

/// The type that `#[utoipa::path]` makes beside a handler.
macro_rules! described {
    ([$($module:ident)*] $handler:ident) => { pastey::paste! { $($module::)* [<__path_ $handler>] } };
    ([$($module:ident)*] $next:ident :: $($rest:tt)+) => {
        $crate::web::routes::described!([$($module)* $next] $($rest)+)
    };
}

pub(super) use {described, handlers};

/// What is served at one path.
#[derive(Default)]
pub struct Handlers {
    path: String,
    methods: MethodRouter<Web>,
    described: Described,
}

/// What routes say of themselves: nothing outside of tests.
#[derive(Default)]
pub struct Described {
    #[cfg(test)]
    pub paths: Paths,
    #[cfg(test)]
    pub schemas: Vec<(String, RefOr<Schema>)>,
}

impl Handlers {
    /// Adds a handler and its description `D`.
    pub(super) fn with<D, H, T>(mut self, handler: H) -> Self
    where
        D: utoipa::Path + SchemaReferences,
        H: Handler<T, Web> + Copy,
        T: 'static,
    {
        self.path = D::path();
        self.described.add::<D>();
        let methods = D::methods();
        self.methods = methods.iter().fold(self.methods, |router, method| router.on(filter(method), handler));
        self
    }

    pub(super) fn layer(mut self, limit: DefaultBodyLimit) -> Self {
        self.methods = self.methods.layer(limit);
        self
    }
}

fn filter(method: &HttpMethod) -> MethodFilter {
    match method {
        HttpMethod::Get => MethodFilter::GET,
        HttpMethod::Put => MethodFilter::PUT,
        HttpMethod::Post => MethodFilter::POST,
        HttpMethod::Head => MethodFilter::HEAD,
        HttpMethod::Patch => MethodFilter::PATCH,
        HttpMethod::Trace => MethodFilter::TRACE,
        HttpMethod::Delete => MethodFilter::DELETE,
        HttpMethod::Options => MethodFilter::OPTIONS,
    }
}

/// Routes of one audience.
#[derive(Default)]
pub struct Routes {
    router: Router<Web>,
    pub described: Described,
}

impl Routes {
    pub(super) fn at(mut self, handlers: Handlers) -> Self {
        self.router = self.router.route(&handlers.path, handlers.methods);
        self.described.and(handlers.described);
        self
    }

    /// A route that is no interface for programs, and is not described.
    pub(super) fn undescribed(mut self, path: &str, methods: MethodRouter<Web>) -> Self {
        self.router = self.router.route(path, methods);
        self
    }

    pub(super) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.described.and(other.described);
        self
    }

    pub(super) fn layer(mut self, limit: DefaultBodyLimit) -> Self {
        self.router = self.router.layer(limit);
        self
    }
}

impl From<Router<Web>> for Routes {
    fn from(router: Router<Web>) -> Self {
        Self { router, described: Described::default() }
    }
}

impl From<Routes> for Router<Web> {
    fn from(routes: Routes) -> Self {
        routes.router
    }
}

#[cfg(test)]
impl Described {
    fn add<D: utoipa::Path + SchemaReferences>(&mut self) {
        D::schemas(&mut self.schemas);
        self.paths.add_path_operation(D::path(), D::methods(), D::operation());
    }

    fn and(&mut self, other: Self) {
        self.paths.merge(other.paths);
        self.schemas.extend(other.schemas);
    }
}

#[cfg(not(test))]
impl Described {
    fn add<D: utoipa::Path + SchemaReferences>(&mut self) {}

    fn and(&mut self, _: Self) {}
}
