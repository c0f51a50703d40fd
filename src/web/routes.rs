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
    #[cfg(test)]
    described: Described,
}

/// What routes say of themselves.
#[cfg(test)]
#[derive(Default)]
pub struct Described {
    pub paths: Paths,
    pub schemas: Vec<(String, RefOr<Schema>)>,
}

impl Handlers {
    /// Adds a handler and its description `D`.
    pub(super) fn with<D: utoipa::Path + SchemaReferences, H: Handler<T, Web> + Copy, T: 'static>(
        self,
        handler: H,
    ) -> Self {
        let methods = D::methods();
        #[cfg(test)]
        let described = {
            let mut described = self.described;
            D::schemas(&mut described.schemas);
            described.paths.add_path_operation(D::path(), methods.clone(), D::operation());
            described
        };
        Self {
            path: D::path(),
            methods: methods.into_iter().fold(self.methods, |router, method| router.on(filter(&method), handler)),
            #[cfg(test)]
            described,
        }
    }

    pub(super) fn layer(self, limit: DefaultBodyLimit) -> Self {
        Self { methods: self.methods.layer(limit), ..self }
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
    #[cfg(test)]
    pub described: Described,
}

impl Routes {
    pub(super) fn at(self, handlers: Handlers) -> Self {
        Self {
            router: self.router.route(&handlers.path, handlers.methods),
            #[cfg(test)]
            described: self.described.and(handlers.described),
        }
    }

    /// A route that is no interface for programs, and is not described.
    pub(super) fn undescribed(self, path: &str, methods: MethodRouter<Web>) -> Self {
        Self { router: self.router.route(path, methods), ..self }
    }

    pub(super) fn merge(self, other: Self) -> Self {
        Self {
            router: self.router.merge(other.router),
            #[cfg(test)]
            described: self.described.and(other.described),
        }
    }

    pub(super) fn layer(self, limit: DefaultBodyLimit) -> Self {
        Self { router: self.router.layer(limit), ..self }
    }
}

impl From<Router<Web>> for Routes {
    fn from(router: Router<Web>) -> Self {
        Self { router, ..Self::default() }
    }
}

impl From<Routes> for Router<Web> {
    fn from(routes: Routes) -> Self {
        routes.router
    }
}

#[cfg(test)]
impl Described {
    fn and(mut self, other: Self) -> Self {
        self.paths.merge(other.paths);
        self.schemas.extend(other.schemas);
        self
    }
}
