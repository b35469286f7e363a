//! Empty: this package only names the projects that the tests build.
