"""The HTTP routes of the Channels application: none of its own."""

urlpatterns: list[object] = []
