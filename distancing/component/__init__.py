"""Define what a component is, and which modules may define components."""

from distancing.component.decorator import component as component
