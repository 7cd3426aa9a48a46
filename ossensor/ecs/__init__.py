"""Amazon ECS: putting the sensor beside an application in a task definition. The sensor itself imports none of it."""
