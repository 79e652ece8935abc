"""What a component is, and which modules may define one."""

from distancing.component.decorator import component as component
